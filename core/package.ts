import { readFileSync } from "node:fs";

/** What this package says of itself. */
export interface OwnPackage {
  readonly version: string;
  readonly peerDependencies?: Readonly<Record<string, string>>;
}

/** Reads the `package.json` of the package that this file is part of, built or as source. */
export function ownPackage(): OwnPackage {
  for (const up of ["../package.json", "../../package.json"]) {
    try {
      const found = JSON.parse(readFileSync(new URL(up, import.meta.url), "utf8")) as OwnPackage & { name: string };
      if (found.name === "aimo") return found;
    } catch {
      // not this one
    }
  }
  return { version: "unknown" };
}
