import type { ChatModel } from '../../chat/model.ts'
import type { FeedLimits } from '../feed-places.ts'
import { ChangeOperations } from './changes.ts'
import { ChatOperations } from './chat.ts'
import type { OperationsContext } from './context.ts'
import { EntityOperations } from './entities.ts'
import { MomentOperations } from './moments.ts'
import { ReplicationOperations } from './replication.ts'
import { ResourceOperations } from './resources.ts'
import { RetractionOperations } from './retractions.ts'

/** Everything that a tenant can ask for; HTTP and gRPC are two ways in to the same operations. */
export class Operations {
  readonly resources: ResourceOperations
  readonly entities: EntityOperations
  readonly moments: MomentOperations
  readonly chat: ChatOperations
  readonly changes: ChangeOperations
  readonly replication: ReplicationOperations
  readonly retractions: RetractionOperations

  constructor(context: OperationsContext, chatModel: ChatModel | undefined, feeds: FeedLimits) {
    this.resources = new ResourceOperations(context)
    this.entities = new EntityOperations(context)
    this.moments = new MomentOperations(context)
    this.chat = new ChatOperations(context, chatModel)
    this.changes = new ChangeOperations(context, feeds)
    this.replication = new ReplicationOperations(context)
    this.retractions = new RetractionOperations(context)
  }
}
