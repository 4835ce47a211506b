import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

interface Entry {
  readonly version?: string;
  readonly resolved?: string;
  readonly dev?: boolean;
  readonly hasInstallScript?: boolean;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}
const lock = JSON.parse(readFileSync(new URL("../package-lock.json", import.meta.url), "utf8")) as {
  packages: Readonly<Record<string, Entry>>;
};
const packages = Object.entries(lock.packages);

// A registry that lacks one platform's package makes npm write a lock that fails with EUSAGE elsewhere.
test.each(["rollup", "oxlint", "oxfmt", "rolldown", "lightningcss"])(
  "the lock holds every platform's package of %s",
  (name) => {
    const names = Object.keys(lock.packages[`node_modules/${name}`]?.optionalDependencies ?? {});
    for (const platform of ["darwin-arm64", "darwin-x64", "win32-x64", "linux-arm64", "linux-x64"])
      expect(names.join(" ")).toContain(platform);
    expect(names.filter((each) => lock.packages[`node_modules/${each}`] === undefined)).toEqual([]);
  },
);

test("there is one version of @libp2p/interface: two would be two sets of symbols", () => {
  const versions = packages.filter(([path]) => path.endsWith("node_modules/@libp2p/interface"));
  expect(versions.map(([, { version }]) => version)).toHaveLength(1);
});

test("the lock names no registry", () => {
  expect(packages.filter(([, { resolved }]) => resolved?.startsWith("http")).map(([path]) => path)).toEqual([]);
});

test("nothing runs a script when a user installs the package", () => {
  const run = packages.filter(([, { hasInstallScript, dev }]) => hasInstallScript === true && dev !== true);
  expect(run.map(([path]) => path || "aimo itself")).toEqual([]);
});
