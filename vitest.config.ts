import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** What takes long begins first, so that nothing long is left for the end. */
const ORDER = ['tests/e2e/', 'tests/sim/', 'tests/integration/', 'tests/contract/', 'tests/unit/']
const rank = ({ moduleId }: TestSpecification): number => {
  const found = ORDER.findIndex(folder => moduleId.includes(`/${folder}`))
  return found < 0 ? ORDER.length : found
}

class LongFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return (await super.sort(files)).toSorted((a, b) => rank(a) - rank(b))
  }
}

const MEMORY = 'tests/unit/**/*.memory.test.ts'

// Tests that start servers and processes wait more than they work: one file more runs at a time than there are cores. All take free ports and folders of their own.
export default defineConfig({
  test: {
    testTimeout: 60_000,
    hookTimeout: 60_000,
    reporters: ['default'],
    setupFiles: ['tests/support/own-temp.ts'],
    pool: 'forks',
    maxWorkers: availableParallelism() + 1,
    sequence: { sequencer: LongFirst },
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          // One process for many files: they share nothing but what they import, which takes longer to load than most take to run.
          isolate: false,
          env: { AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED: 'true' },
          include: ['tests/{unit,property,contract}/**/*.test.ts'],
          exclude: [MEMORY],
        },
      },
      // What looks at its own heap has a process of its own.
      { extends: true, test: { name: 'memory', include: [MEMORY] } },
      { extends: true, test: { name: 'sim', include: ['tests/sim/**/*.test.ts'] } },
      // As the units: what they import takes four seconds of a processor for each file, else.
      {
        extends: true,
        test: { name: 'integration', isolate: false, include: ['tests/{integration,e2e}/**/*.test.ts'] },
      },
      {
        extends: true,
        test: {
          name: 'long',
          include: ['tests/long/**/*.test.ts'],
          maxWorkers: 1,
          fileParallelism: false,
          testTimeout: 2_400_000,
          hookTimeout: 300_000,
        },
      },
    ],
  },
})
