import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

/** What a process holds once all garbage is gone, and what keeps it alive. bytes */
export interface Figures {
  /** Heap and what hangs on it outside, after two collections: not the resident size, in which garbage lies for a while. */
  readonly held: number;
  readonly rss: number;
  /** `process.getActiveResourcesInfo()`, counted by name. */
  readonly handles: Readonly<Record<string, number>>;
}

export function figures(): Figures {
  collect();
  collect();
  const { heapUsed, external, rss } = process.memoryUsage();
  const handles: Record<string, number> = {};
  for (const name of process.getActiveResourcesInfo()) handles[name] = (handles[name] ?? 0) + 1;
  return { held: heapUsed + external, rss, handles };
}
