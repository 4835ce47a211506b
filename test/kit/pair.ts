import { onTestFinished } from "vitest";
import {
  type AimoError,
  createNode,
  type AimoNode,
  type Link,
  type LinkCaps,
  type LinkEvents,
  type NodeConfig,
  type Plugin,
  type Runtime,
  type Wait,
} from "../../core/index.ts";
import { decodeMessage, MAX_MESSAGE, type Message } from "../../core/wire/codec.ts";
import { hostilePeer, type HostileOptions, type HostilePeer } from "../suites/hostile-peer.ts";
import { createVirtualRuntime, type VirtualRuntime } from "./virtual-runtime.ts";

const CAPS = { ordered: true, reliable: true, private: true, backpressure: true, maxMessage: MAX_MESSAGE } as const;

/** A real node whose links a test makes by hand. Its clock stands still until the test advances it. */
export interface WiredNode {
  readonly node: AimoNode;
  readonly runtime: VirtualRuntime;
  readonly accept: (link: Link) => LinkEvents;
  /** What was told to `node:error`. */
  readonly errors: AimoError[];
}

/** Each has a seed of its own, and so a key of its own. */
let nodes = 0;

export async function wiredNode(
  plugins: readonly Plugin[] = [],
  config: Partial<NodeConfig> = {},
  override: Partial<Runtime> = {},
): Promise<WiredNode> {
  const runtime = Object.assign(createVirtualRuntime(++nodes), override);
  const errors: AimoError[] = [];
  let accept: WiredNode["accept"] | undefined;
  const transport: Plugin = {
    name: "transport-test",
    transport: { listen: (take) => void (accept = take), close: () => undefined },
    hooks: { "node:error": (error) => void errors.push(error) },
  };
  // What a broken link means by itself is seen without resume; tests of resume switch it on.
  const timeouts = { resume: 0, ...config.timeouts };
  const node = await createNode({ drain: 0, ...config, timeouts, plugins: [transport, ...plugins] }, runtime);
  // `close` waits for calls and plugins on the node's clock.
  onTestFinished(async () => {
    const closed = node.close();
    await runtime.advance(60_000);
    await closed;
  });
  if (accept === undefined) throw new Error("the node did not listen");
  return { node, runtime, accept, errors };
}

export type Side = "a" | "b";

/** One message on its way. */
export interface Passing {
  readonly from: Side;
  /** `undefined` for what a node has to ignore, and for what is sealed. */
  readonly message: Message | undefined;
  readonly bytes: Uint8Array;
}

/** A link between two nodes with a tap in the middle. */
export interface Wire {
  /** All that was sent, also what was dropped or is held. */
  readonly seen: readonly Passing[];
  /** Decides for each message; may be set at any time. Default: all pass. */
  tap: (passing: Passing) => "pass" | "drop" | "hold";
  /** What was held goes on, in order. */
  release(): void;
  inject(to: Side, bytes: Uint8Array): void;
  /** `send` of this side asks to wait until the result is called. */
  fill(side: Side): () => void;
  /** Breaks it in the middle: both sides see it closed, nothing that is on its way arrives. */
  cut(error?: AimoError): void;
  readonly open: boolean;
}

export interface ConnectOptions {
  dialler?: Side;
  caps?: LinkCaps;
  rank?: number;
  via?: string;
  onDemand?: true;
}

/** Links two nodes; `dialler` says which of them opened it. Messages arrive a turn later, as over a socket. */
export function connect(
  a: Pick<WiredNode, "accept"> & { node: { id: string } },
  b: Pick<WiredNode, "accept"> & { node: { id: string } },
  { dialler = "a", caps = CAPS, rank = 0, via = "test", onDemand }: ConnectOptions = {},
): Wire {
  const seen: Passing[] = [];
  const held: Passing[] = [];
  const events: Partial<Record<Side, LinkEvents>> = {};
  const early: Passing[] = [];
  const full: Partial<Record<Side, PromiseWithResolvers<void>>> = {};
  const closed = { a: false, b: false };

  function arrive(passing: Passing): void {
    setImmediate(() => {
      const to = other(passing.from);
      if (!closed[to]) events[to]?.message(passing.bytes);
    });
  }

  function route(passing: Passing): void {
    const verdict = held.length > 0 ? "hold" : wire.tap(passing);
    if (verdict === "hold") held.push(passing);
    else if (verdict === "pass") arrive(passing);
  }

  function shut(side: Side, error?: AimoError): void {
    if (closed[side]) return;
    closed[side] = true;
    full[side]?.resolve();
    events[side]?.closed(error);
  }

  function end(side: Side, peer: string): Link {
    return {
      peer,
      via,
      rank,
      dialled: side === dialler,
      ...(onDemand && { onDemand }),
      caps,
      send(messages): Wait {
        if (closed[side]) return undefined;
        for (const bytes of messages) {
          const passing = { from: side, bytes, message: caps.private ? decodeMessage(bytes) : undefined };
          seen.push(passing);
          if (events.a && events.b) route(passing);
          else early.push(passing);
        }
        return full[side]?.promise;
      },
      close(error) {
        if (closed[side]) return;
        shut(side, error);
        // What was sent before still arrives, unless the link was torn down.
        if (error) return shut(other(side));
        setImmediate(() => setImmediate(() => shut(other(side))));
      },
    };
  }

  const wire: Wire = {
    seen,
    tap: () => "pass",
    release() {
      for (const passing of held.splice(0)) arrive(passing);
    },
    inject: (to, bytes) => setImmediate(() => closed[to] || events[to]?.message(bytes)),
    fill(side) {
      full[side] ??= Promise.withResolvers<void>();
      return () => {
        full[side]?.resolve();
        delete full[side];
      };
    },
    cut(error) {
      shut("a", error);
      shut("b", error);
    },
    get open() {
      return !closed.a && !closed.b;
    },
  };
  events.a = a.accept(end("a", b.node.id));
  events.b = b.accept(end("b", a.node.id));
  for (const passing of early.splice(0)) route(passing);
  return wire;
}

function other(side: Side): Side {
  return side === "a" ? "b" : "a";
}

export type RawPeer = HostilePeer;

/** Links a scripted peer to a node, on the node's clock. */
export function rawPeer(to: WiredNode, options: Pick<HostileOptions, "identity" | "dialled"> = {}): RawPeer {
  return hostilePeer(to.accept, { runtime: to.runtime, via: "test", ...options });
}

/** Lets the clocks of several nodes run together. */
export async function pass(ms: number, ...nodes: readonly WiredNode[]): Promise<void> {
  for (let left = ms; left > 0; left -= STEP)
    for (const { runtime } of nodes) await runtime.advance(Math.min(STEP, left));
}
const STEP = 20;

/** Turns of the loop without news, after which nothing can be on its way any more. */
const QUIET = 12;

/** Lets everything that is on its way arrive: messages, promises, turns. Timers stand still. */
export async function quiet(): Promise<void> {
  for (let i = 0; i < QUIET; i++) await new Promise<void>((resolve) => setImmediate(resolve));
}

/** Turns until it is so; for chains whose length depends on sizes. Throws when it never is. */
export async function until(what: () => boolean, turns = 5_000): Promise<void> {
  for (let i = 0; i < turns; i++) {
    if (what()) return;
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
  throw new Error(`never: ${what.toString()}`);
}
