import { readFileSync } from "node:fs";

/** Of the package that this file is part of, built or as source. */
export function version(): string {
  for (const up of ["../package.json", "../../package.json"]) {
    try {
      const { name, version: found } = JSON.parse(readFileSync(new URL(up, import.meta.url), "utf8")) as {
        name: string;
        version: string;
      };
      if (name === "aimo") return found;
    } catch {
      // not this one
    }
  }
  return "unknown";
}
