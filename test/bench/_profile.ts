import { readFileSync } from "node:fs";

interface Profile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  }[];
  readonly samples: readonly number[];
  /** us */
  readonly timeDeltas: readonly number[];
}

export interface Share {
  readonly name: string;
  /** us of self time for each chunk or call. */
  readonly cost: number;
  /** Of all that is not idle. */
  readonly part: number;
}

export interface Shares {
  readonly groups: readonly Share[];
  readonly functions: readonly Share[];
}

/** The first that fits counts. */
const GROUPS: readonly [name: string, fits: RegExp][] = [
  ["idle", /^\(idle\)|node:inspector/],
  ["garbage collection", /^\(garbage collector\)/],
  ["program (native, no frame)", /^\((program|root)\)/],
  ["socket writes", /^(writev|writeBuffer|write\w+String|shutdown|writeGeneric|sendto) (native)?$/],
  ["node:tls", /node:(_?tls|internal\/tls)/],
  [
    "node:crypto",
    /node:(crypto|internal\/crypto)|^(randomFill|oneShotDigest|Hash|update|digest|sign|verify)\S* native$/,
  ],
  ["node:http", /node:(_http|internal\/http|http)/],
  ["node streams and net", /node:(internal\/streams|net|stream|internal\/stream_base_commons|internal\/net)/],
  [
    "ticks, timers, promises, events, abort",
    /node:(internal\/(timers|process|abort|event_target|async_hooks|promise)|timers|events|async_hooks|internal\/util|internal\/per_context)/,
  ],
  ["buffers", /node:(buffer|internal\/buffer)/],
  ["core/wire", /\/core\/wire\//],
  ["core", /\/core\//],
  ["plugins", /\/plugins\//],
  ["h3, srvx, rou3", /node_modules\/(h3|srvx|rou3)\//],
  ["yamux", /node_modules\/@(libp2p|chainsafe\/libp2p-)\/?yamux\//],
  ["noise", /node_modules\/(@(libp2p|chainsafe\/libp2p-)\/?noise|@noble|@stablelib|@chainsafe\/as-)/],
  [
    "libp2p, uint8arraylist",
    /node_modules\/(@libp2p|libp2p|uint8|it-|multiformats|@multiformats|main-event|@chainsafe|race-|p-|any-signal)/,
  ],
  ["zod", /node_modules\/zod\//],
  ["cborg", /node_modules\/cborg\//],
  ["hookable", /node_modules\/hookable\//],
  ["other packages", /node_modules\//],
  ["the bench", /\/test\/bench\//],
  ["node, the rest", /node:/],
];

/** Self time by group and by function; `count`: chunks or calls in the window. */
export function readProfile(file: string, count: number): Shares {
  const { nodes, samples, timeDeltas } = JSON.parse(readFileSync(file, "utf8")) as Profile;
  const names = new Map<number, { group: string; label: string }>();
  for (const { id, callFrame } of nodes) names.set(id, describe(callFrame));
  const groups = new Map<string, number>();
  const functions = new Map<string, number>();
  let busy = 0;
  for (let i = 0; i < samples.length; i++) {
    const { group, label } = names.get(samples[i] as number) ?? { group: "unknown", label: "unknown" };
    const time = timeDeltas[i] as number;
    if (group === "idle") continue;
    busy += time;
    groups.set(group, (groups.get(group) ?? 0) + time);
    functions.set(label, (functions.get(label) ?? 0) + time);
  }
  const shares = (times: Map<string, number>): Share[] =>
    [...times]
      .map(([name, time]) => ({ name, cost: time / count, part: time / busy }))
      .toSorted((a, b) => b.cost - a.cost);
  return { groups: shares(groups), functions: shares(functions).slice(0, 40) };
}

function describe({ functionName, url, lineNumber }: Profile["nodes"][number]["callFrame"]): {
  group: string;
  label: string;
} {
  const path = url.replace(/^file:\/\//, "");
  const text = url === "" ? `${functionName || "(anonymous)"} native` : path;
  const group = GROUPS.find(([, fits]) => fits.test(text))?.[0] ?? "native and unknown";
  const short = path.replace(/^.*\/node_modules\//, "").replace(/^.*\/(core|plugins|test)\//, "$1/");
  return { group, label: `${functionName || "(anonymous)"}  ${short}${url === "" ? "" : `:${lineNumber + 1}`}` };
}
