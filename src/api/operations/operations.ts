import type { ChatModel } from '../../chat/model.ts'
import { ChatOperations } from './chat.ts'
import type { OperationsContext } from './context.ts'
import { EntityOperations } from './entities.ts'
import { MomentOperations } from './moments.ts'
import { ResourceOperations } from './resources.ts'

/** Everything that a tenant can ask for; HTTP and gRPC are two ways in to the same operations. */
export class Operations {
  readonly resources: ResourceOperations
  readonly entities: EntityOperations
  readonly moments: MomentOperations
  readonly chat: ChatOperations

  constructor(context: OperationsContext, chatModel: ChatModel | undefined) {
    this.resources = new ResourceOperations(context)
    this.entities = new EntityOperations(context)
    this.moments = new MomentOperations(context)
    this.chat = new ChatOperations(context, chatModel)
  }
}
