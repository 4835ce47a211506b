import { z } from "zod";
import {
  checkOptions,
  systemRuntime,
  type Call,
  type Plugin,
  type RequestFrame,
  type Target,
} from "../../core/index.ts";
import { byModel } from "./_by-model.ts";

export interface StickyOptions {
  /** Client headers that name a session, the first that is there counts. Default `["x-session-id"]`. */
  headers?: string[];
  /** Bytes of the body that tell one prompt from another where nothing names the session; 0 = such a call keeps the order it has. Default 1,024. */
  prefix?: number;
  /** A target with more than this many times the calls in flight of the average is passed over. Default 1.5. */
  bound?: number;
}

const schema = z.strictObject({
  headers: z.array(z.string().min(1).toLowerCase()).default(["x-session-id"]),
  prefix: z.number().int().nonnegative().default(1_024),
  bound: z.number().min(1).default(1.5),
});

/** So many calls in flight are never too many. */
const ALWAYS = 4;
/** A name is as long as this at most, bytes: what follows does not count. */
const LONGEST = 256;
/** In JSON a quote inside a string is escaped, so that this is a field and never part of a prompt. */
const CACHE_KEY = '"prompt_cache_key"';

/**
 * Calls of one session go to one target, which may have their prompt in its cache: the session is named by a header, by
 * OpenAI's `prompt_cache_key`, or else by how the body begins. Rendezvous hashing: when a target leaves, only its own
 * sessions move, each to its next target, and the rest follow as fallbacks.
 */
export function sticky(options: StickyOptions = {}): Plugin {
  const checked = checkOptions("router-sticky", schema, options);
  const { headers, prefix, bound } = checked;
  let runtime = systemRuntime;

  function sessionOf({ headers: passed, body }: Readonly<RequestFrame>, { origin }: Call): Uint8Array | undefined {
    for (const name of headers) {
      const value = origin.headers[name] ?? passed[name];
      if (value) return Buffer.from(value);
    }
    return cacheKey(body) ?? (prefix > 0 ? body.subarray(0, prefix) : undefined);
  }

  function select(targets: readonly Target[], request: Readonly<RequestFrame>, call: Call): readonly Target[] {
    const session = sessionOf(request, call);
    if (session === undefined) return targets;
    const seed = hash(session);
    const now = runtime.now();
    const inFlight = targets.reduce((sum, { stats }) => sum + stats.inFlight, 0);
    const most = Math.max(ALWAYS, Math.ceil((bound * (inFlight + 1)) / targets.length));
    const isFull = ({ stats, load = 0 }: Target): boolean =>
      stats.inFlight >= most || load >= 1 || (stats.limitedUntil ?? 0) > now;
    return targets
      .map((target) => ({ target, full: Number(isFull(target)), rank: mix(seed ^ hash(Buffer.from(target.id))) }))
      .toSorted((a, b) => a.full - b.full || b.rank - a.rank)
      .map(({ target }) => target);
  }

  return {
    name: "router-sticky",
    options: checked,
    router: {
      select: byModel(select),
      explain: ({ stats, load }) => ({ inFlight: stats.inFlight, load: load ?? "unknown" }),
    },
    setup: (node) => void (runtime = node.runtime),
  };
}

function cacheKey(body: Uint8Array): Uint8Array | undefined {
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  const at = bytes.indexOf(CACHE_KEY);
  if (at < 0) return undefined;
  const rest = bytes.toString("latin1", at + CACHE_KEY.length, at + CACHE_KEY.length + LONGEST);
  const value = /^\s*:\s*"([^"]+)/.exec(rest)?.[1];
  return value === undefined ? undefined : Buffer.from(value, "latin1");
}

/** FNV-1a: for a thousand ids a decision. */
function hash(bytes: Uint8Array): number {
  let value = 0x811c9dc5;
  for (const byte of bytes) value = Math.imul(value ^ byte, 0x01000193);
  return value;
}

/** Spreads what differs in few bits over all of them (the end of MurmurHash3). */
function mix(value: number): number {
  let mixed = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}
