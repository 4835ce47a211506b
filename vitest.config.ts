import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const path = (relative: string): string => fileURLToPath(new URL(relative, import.meta.url));

/** The names a user imports are the sources here, as in tsconfig.json. */
const alias = [
  { find: /^aimo$/, replacement: path("core/index.ts") },
  { find: /^aimo\/testing$/, replacement: path("test/suites/index.ts") },
  { find: /^aimo\/([a-z]+)$/, replacement: path("plugins/$1/index.ts") },
];

/** Several processes each, but no timing. */
const COMMANDS = [
  "canary",
  "cli",
  "cli-*",
  "clients*",
  "docs",
  "errors",
  "forerunner",
  "init",
  "ledger",
  "package",
  "real-model",
  "receipts",
  "switching",
  "templates",
  "tracing",
  "trust",
].map((name) => `test/e2e/${name}.test.ts`);

/** Tests of real processes. */
const PROCESSES = {
  // Tests of what stays on the heap collect garbage first.
  execArgv: ["--expose-gc"],
  testTimeout: 60_000,
  hookTimeout: 60_000,
};

export default defineConfig({
  resolve: { alias },
  test: {
    // A machine that is busy takes longer than the default of a second.
    expect: { poll: { timeout: 5_000 } },
    reporters: ["default", "./test/reporter.ts"],
    projects: [
      {
        extends: true,
        test: {
          name: "unit",
          include: ["test/{core,plugins,types,kit}/**/*.test.ts", "test/*.test.ts"],
          testTimeout: 10_000,
          // vitest leaves one core free, which is half of a small machine.
          maxWorkers: "100%",
          // Not 0: with one worker vitest runs group 0 last.
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          ...PROCESSES,
          name: "commands",
          include: [...COMMANDS],
          maxWorkers: "100%",
          sequence: { groupOrder: 2 },
        },
      },
      {
        extends: true,
        test: {
          ...PROCESSES,
          name: "e2e",
          include: ["test/e2e/**/*.test.ts"],
          exclude: [...COMMANDS],
          // Timing counts: one file after the other, when nothing else runs.
          fileParallelism: false,
          sequence: { groupOrder: 3 },
        },
      },
    ],
  },
});
