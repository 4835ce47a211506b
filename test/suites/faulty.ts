import { z } from "zod";
import { AimoError, checkOptions, type LinkCaps, type Plugin, type Runtime, type Transport } from "../../core/index.ts";
import { faultyLink, spoil, type FaultyLink } from "./faulty-link.ts";
import { seeded } from "./random.ts";

/** What links can suffer. Shares are of messages, 0 … 1; the default of everything is: not at all. */
export interface Faults {
  /** Share that never arrives. */
  loss?: number;
  /** Share that one to four later messages overtake. */
  reorder?: number;
  /** Share that arrives twice. */
  duplicate?: number;
  /** Share in which one bit is flipped. */
  corrupt?: number;
  /** ms that each message is on its way. */
  delay?: number;
  /** ms at most on top of it, drawn for each message; they keep their order. */
  jitter?: number;
  /** Below 1 the share of messages at which a link breaks; from 1 on the number of the message at which it does. */
  cut?: number;
  /** At each `every`th message nothing passes for `ms`, in both directions; nothing is lost by it. */
  stall?: { readonly every: number; readonly ms: number } | undefined;
}

export interface FaultyOptions extends Faults {
  /** The same seed causes the same faults to the same messages. Default 1. */
  seed?: number;
  /** What links are not from the start, for faults that `set` brings later: `{ reliable: false }`. */
  caps?: { readonly ordered?: boolean; readonly reliable?: boolean; readonly private?: boolean };
}

export type Fault = "loss" | "reorder" | "duplicate" | "corrupt" | "cut" | "stall";

/** Causes faults at a chosen moment, on all links of the plugin. */
export interface FaultControl {
  /** From now on, beside what holds already. Throws CONFIG_INVALID when an open link promised better by its caps. */
  set(faults: Faults): void;
  /** All links break, on both ends; what was on its way is lost. */
  cut(): void;
  /** Nothing passes, in either direction, for `ms` or until `heal`; not even the end of a link. */
  stall(ms?: number): void;
  /** Ends a stall, and all faults. */
  heal(): void;
  /** How many there were, so that a test can tell that it has tested something. */
  readonly caused: Readonly<Record<Fault, number>>;
}

export type FaultyPlugin = Plugin & { readonly faults: FaultControl };

const share = z.number().min(0).max(1).default(0);
const ms = z.number().nonnegative().default(0);
const faultFields = {
  loss: share,
  reorder: share,
  duplicate: share,
  corrupt: share,
  delay: ms,
  jitter: ms,
  cut: z
    .number()
    .nonnegative()
    .refine((cut) => cut < 1 || Number.isInteger(cut), "must be a share below 1, or a whole number of messages")
    .default(0),
  stall: z.strictObject({ every: z.number().int().positive(), ms: z.number().positive() }).optional(),
};
const faultsSchema = z.strictObject(faultFields);
const cap = z.boolean().default(true);
const schema = z.strictObject({
  ...faultFields,
  seed: z.number().int().default(1),
  caps: z.strictObject({ ordered: cap, reliable: cap, private: cap }).prefault({}),
});

/** ms that links get to send what lies in them when the node closes. */
const LINGER = 1_000;

/**
 * A transport plugin whose links suffer, on the node's clock. Each end spoils what it sends, so wrap both ends for faults
 * in both directions, and always where `caps` change: both ends of a link must know that it needs repair. `cut` and
 * `stall` hit both directions from one end. The caps of the links are true; what they lack the core adds.
 * Throws CONFIG_INVALID.
 */
export function faulty(plugin: Plugin, options: FaultyOptions = {}): FaultyPlugin {
  const name = `faulty(${plugin.name})`;
  const { transport: inner } = plugin;
  if (inner === undefined) throw new AimoError("CONFIG_INVALID", `${name}: the plugin makes no links.`);
  const { seed, caps: declared, ...given } = checkOptions(name, schema, options);
  const faults = { stall: undefined, ...given };
  const caused = { loss: 0, reorder: 0, duplicate: 0, corrupt: 0, cut: 0, stall: 0 };
  const links = new Set<FaultyLink>();
  const randomOf = (stream: number): (() => number) => seeded(seed + Math.imul(stream, 0x9e3779b9));
  const random = randomOf(-1);
  let runtime: Runtime;
  let made = 0;
  let stalled = false;

  const transport: Transport = {
    listen: (accept, heard) =>
      inner.listen((raw) => {
        // The two ends of a link do not suffer the same.
        const stream = 2 * made++ + (raw.dialled ? 1 : 0);
        const caps = capsUnder(capsUnder(raw.caps, declared), promises(faults));
        const link = faultyLink(raw, caps, { runtime, faults, caused }, randomOf(stream));
        links.add(link);
        void link.gone.then(() => links.delete(link));
        if (stalled) link.stall();
        return link.listen(accept(link.link));
      }, heard),
    async close() {
      const { promise: late, resolve } = Promise.withResolvers<void>();
      const lingering = [...links].filter(({ lingers }) => lingers);
      const stop = lingering.length > 0 ? runtime.setTimeout(LINGER, resolve) : resolve;
      await Promise.race([Promise.all(lingering.map(({ gone }) => gone)), late]);
      stop();
      for (const link of [...links]) link.end();
      await inner.close();
    },
  };
  if (inner.reach) transport.reach = (peer, signal) => inner.reach?.(peer, signal);
  if (inner.broadcast)
    transport.broadcast = (message) => {
      for (const bytes of spoil(message, faults, caused, random)) inner.broadcast?.(bytes);
    };

  const control: FaultControl = {
    set(next) {
      const all = { ...faults, stall: undefined, ...checkOptions(name, faultsSchema, { ...faults, ...next }) };
      for (const { link } of links) checkPromises(name, link.caps, promises(all));
      Object.assign(faults, all);
    },
    cut() {
      for (const link of [...links]) link.cut();
    },
    stall(ms) {
      stalled = ms === undefined;
      for (const link of links) link.stall(ms);
    },
    heal() {
      stalled = false;
      Object.assign(faults, { stall: undefined, ...checkOptions(name, faultsSchema, {}) });
      for (const link of [...links]) link.heal();
    },
    caused,
  };

  const wrapped: Plugin = {
    ...plugin,
    transport,
    setup(node) {
      ({ runtime } = node);
      return plugin.setup?.(node);
    },
  };
  // Not a field of a plugin, which the loader would refuse.
  return Object.defineProperty(wrapped, "faults", { value: control }) as FaultyPlugin;
}

type Promises = Pick<LinkCaps, "ordered" | "reliable" | "private">;

/** What a link can still promise. What needs repair needs the seal too: both are one part of the core. */
function promises({ loss, duplicate, reorder, corrupt }: Required<Omit<Faults, "stall">>): Promises {
  return { reliable: loss + duplicate === 0, ordered: reorder === 0, private: corrupt === 0 };
}

function capsUnder(caps: LinkCaps, { reliable, ordered, private: sealed }: Promises): LinkCaps {
  const kept = { reliable: caps.reliable && reliable, ordered: caps.ordered && ordered };
  return { ...caps, ...kept, private: caps.private && sealed && kept.reliable && kept.ordered };
}

function checkPromises(name: string, caps: LinkCaps, now: Promises): void {
  for (const cap of ["ordered", "reliable", "private"] as const)
    if (caps[cap] && !now[cap])
      throw new AimoError(
        "CONFIG_INVALID",
        `${name}: an open link is ${cap} by its caps; say \`caps: { ${cap}: false }\` when it is made.`,
      );
}
