import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** What this package says of itself. */
export interface OwnPackage {
  /** Its folder. */
  readonly root: string;
  readonly version: string;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly devDependencies: Readonly<Record<string, string>>;
  readonly peerDependencies: Readonly<Record<string, string>>;
}

/** Reads the `package.json` of the package that this file is part of, built or as source. */
export function ownPackage(): OwnPackage {
  for (const up of ["..", "../.."]) {
    const root = fileURLToPath(new URL(up, import.meta.url));
    try {
      const found = JSON.parse(readFileSync(`${root}/package.json`, "utf8")) as OwnPackage & { name: string };
      if (found.name === "aimo") return { ...found, root };
    } catch {
      // not this one
    }
  }
  throw new Error("The package aimo has lost its package.json: install it anew.");
}
