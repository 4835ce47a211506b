import { defineBuildConfig } from "unbuild";

const KINDS = [
  "frontends",
  "transports",
  "routers",
  "providers",
  "translators",
  "guards",
  "observers",
  "stores",
  "presets",
];

// unbuild has no such flag; warnings and errors go to stderr.
if (process.argv.includes("--quiet")) process.stdout.write = () => true;

export default defineBuildConfig({
  // With the extension, or the declarations are made from a TypeScript program per file (four times as slow).
  entries: [
    { input: "core/index.ts", name: "index" },
    ...KINDS.map((kind) => ({ input: `plugins/${kind}/index.ts`, name: kind })),
    { input: "test/suites/index.ts", name: "testing" },
    { input: "core/cli/aimo.ts", name: "aimo" },
    { input: "core/cli/main.ts", name: "main" },
  ],
  // Only `.d.mts`: the package is ESM only. What is not declared in package.json would be bundled: that is a mistake.
  declaration: "node16",
  failOnWarn: true,
  hooks: {
    // The command has no types to offer.
    "rollup:dts:options"(_, options) {
      const { aimo: _aimo, main: _main, ...input } = options.input as Record<string, string>;
      options.input = input;
    },
  },
  rollup: { emitCJS: false, output: { chunkFileNames: "shared/[name].mjs" } },
});
