import { Slicer } from '../../src/base/slice.ts'

/**
 * How many turns of the event loop others get while `work` runs, when every look at the time finds that a slice is used up: as many as there are places where the work can be interrupted, whatever the machine's speed.
 */
export async function turnsDuring(work: () => Promise<unknown>): Promise<number> {
  const { sliceMs } = Slicer
  Slicer.sliceMs = 0
  let turns = 0
  let isRunning = true
  const turn = () => {
    if (!isRunning) return
    turns++
    setImmediate(turn)
  }
  setImmediate(turn)
  try {
    await work()
    return turns
  } finally {
    isRunning = false
    Slicer.sliceMs = sliceMs
  }
}
