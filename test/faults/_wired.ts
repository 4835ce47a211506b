import {
  createNode,
  type AimoNode,
  type Link,
  type LinkEvents,
  type NodeConfig,
  type Plugin,
  type Runtime,
} from "../../core/index.ts";
import { MAX_MESSAGE } from "../../core/wire/codec.ts";
import { createVirtualRuntime, type VirtualRuntime } from "../kit/virtual-runtime.ts";
import { quiet } from "./_roles/_quiet.ts";

export const CAPS = {
  ordered: true,
  reliable: true,
  private: true,
  backpressure: true,
  maxMessage: MAX_MESSAGE,
} as const;

/** A node on a clock of its own, whose links are made by hand. */
export interface Wired {
  readonly node: AimoNode;
  readonly clock: VirtualRuntime;
  accept(link: Link): LinkEvents;
  /** Closes it, on its own clock. */
  end(): Promise<void>;
}

export async function wired(
  seed: number,
  plugins: readonly Plugin[],
  config: Partial<NodeConfig> = {},
  override: (clock: VirtualRuntime) => Partial<Runtime> = () => ({}),
): Promise<Wired> {
  const clock = createVirtualRuntime(seed);
  Object.assign(clock, override({ ...clock }));
  let take: Wired["accept"] | undefined;
  const transport: Plugin = {
    name: "transport-wired",
    transport: { listen: (accept) => void (take = accept), close: () => undefined },
    hooks: { "node:error": () => undefined },
  };
  const node = await createNode({ drain: 0, ...config, plugins: [quiet(), transport, ...plugins] }, clock);
  return {
    node,
    clock,
    accept: take as unknown as Wired["accept"],
    async end() {
      let closed = false;
      void node.close().then(() => (closed = true));
      while (!closed) await clock.advance(100);
    },
  };
}

/** A link between two nodes; messages arrive a turn later, as over a socket. */
export interface Wire {
  /** What is sent waits, in both directions, until `release`. */
  hold(): void;
  release(): void;
  /** One end, or both, see it closed; nothing that is on its way arrives. */
  cut(side?: "a" | "b"): void;
  /** How the ends see it. */
  readonly closed: { readonly a: boolean; readonly b: boolean };
}

export function connect(a: Wired, b: Wired): Wire {
  const events: { a?: LinkEvents; b?: LinkEvents } = {};
  const closed = { a: false, b: false };
  const waiting: { to: "a" | "b"; bytes: Uint8Array | undefined }[] = [];
  let held = true; // until both ends are there

  /** Without bytes: the far end's close. */
  function pass(to: "a" | "b", bytes: Uint8Array | undefined): void {
    if (held) return void waiting.push({ to, bytes });
    setImmediate(() => {
      if (held) waiting.push({ to, bytes });
      else if (bytes === undefined) shut(to);
      else if (!closed[to]) events[to]?.message(bytes);
    });
  }
  function shut(side: "a" | "b", error?: Parameters<Link["close"]>[0]): void {
    if (closed[side]) return;
    closed[side] = true;
    events[side]?.closed(error);
  }
  function end(side: "a" | "b", peer: string): Link {
    const other = side === "a" ? "b" : "a";
    return {
      peer,
      via: "wired",
      rank: 0,
      dialled: side === "b",
      caps: CAPS,
      send(messages) {
        if (!closed[side]) for (const bytes of messages) pass(other, bytes);
        return undefined;
      },
      close(error) {
        shut(side, error);
        pass(other, undefined);
      },
    };
  }

  const wire: Wire = {
    hold: () => void (held = true),
    release() {
      held = false;
      for (const { to, bytes } of waiting.splice(0)) pass(to, bytes);
    },
    cut(side) {
      if (side !== "b") shut("a");
      if (side !== "a") shut("b");
    },
    closed,
  };
  events.a = a.accept(end("a", b.node.id));
  events.b = b.accept(end("b", a.node.id));
  wire.release();
  return wire;
}
