import type { Libp2p } from "@libp2p/interface";
import { multiaddr } from "@multiformats/multiaddr";
import { libp2p, type Libp2pOptions } from "../../../plugins/transports/libp2p.ts";
import { stream } from "../../../plugins/transports/stream.ts";
import { createNode, type AimoNode } from "../../node.ts";
import type { Plugin } from "../../plugin.ts";
import { within, type Checkup } from "./checkup.ts";
import { checkTcp } from "./connect.ts";
import { checkTokens, TOKEN_WITHIN, type TokenOptions } from "./first-token.ts";

/** ms */
const DIAL_WITHIN = 6_000;
const LINK_WITHIN = 5_000;
const ADVERT_WITHIN = 5_000;

export interface JoinOptions extends TokenOptions {
  readonly encrypt?: Libp2pOptions["encrypt"];
  /** The node serves models of its own: those that it joins may have none. */
  readonly serves: boolean;
  readonly refusals: ReadonlyMap<string, string>;
}

/** Throws CONFIG_INVALID. */
export function checkAddress(address: string): void {
  libp2p({ join: [address] });
}

/** One address, layer by layer, with a node that is thrown away: each layer needs the one before. */
export async function checkJoin(checkup: Checkup, address: string, options: JoinOptions): Promise<void> {
  const { check } = checkup;
  const { host, port } = whereOf(address);
  if (host !== undefined && port !== undefined && !(await checkTcp(checkup, host, port))) return;
  const { encrypt, serves, refusals, tokens } = options;
  const node = await createNode({
    plugins: [quiet(), libp2p({ ...(encrypt && { encrypt }) }), stream()],
    timeouts: { connect: DIAL_WITHIN, firstChunk: TOKEN_WITHIN },
    drain: 0,
  });
  try {
    const host = await node.use("libp2p").host();
    const seen = watch(node, host);
    let peer = "";
    const layers: [string, () => Promise<string | void>][] = [
      ["encryption", async () => void (peer = await dial(host, address))],
      [
        "link",
        () =>
          within(
            LINK_WITHIN,
            `It opened no link within ${LINK_WITHIN} ms: does it refuse this node, or is it closing?`,
            seen.link.promise,
          ),
      ],
      [
        "advert",
        () =>
          within(
            ADVERT_WITHIN,
            "It says nothing of itself, though the link is up: is its version another one?",
            seen.advert.promise,
          ),
      ],
      ["models", () => models(node, peer, serves || !tokens)],
    ];
    for (const [layer, run] of layers) if (!(await check(layer, address, run))) return;
    const refusal = refusals.get(peer);
    if (refusal !== undefined)
      await check("offer", address, () => {
        throw new Error(refusal);
      });
    await checkTokens(checkup, node, targetsOf(node, peer), options);
  } finally {
    await node.close();
  }
}

function targetsOf(node: AimoNode, peer: string) {
  return [...node.targets].filter((target) => target.peer === peer);
}

interface Seen {
  /** Rejects when there cannot be one. */
  readonly link: PromiseWithResolvers<void>;
  readonly advert: PromiseWithResolvers<void>;
}

function watch(node: AimoNode, host: Libp2p): Seen {
  const seen = { link: Promise.withResolvers<void>(), advert: Promise.withResolvers<void>() };
  const refuse = (why: string): void => seen.link.reject(new Error(why));
  seen.link.promise.catch(() => undefined); // nobody may be waiting yet
  node.hook("link:up", () => seen.link.resolve());
  node.hook("frame:heartbeat", () => seen.advert.resolve());
  node.hook("node:error", ({ message }) => refuse(`The link failed: ${message}`));
  host.addEventListener("peer:identify", ({ detail: { protocols } }) => {
    if (!protocols.some((name) => name.startsWith("/aimo/link/")))
      refuse(
        "It is a libp2p node, but no aimo node, or its transport-stream is off: check the address, and its config.",
      );
  });
  return seen;
}

async function dial(host: Libp2p, address: string): Promise<string> {
  try {
    return (await host.dial(multiaddr(address), { signal: AbortSignal.timeout(DIAL_WITHIN) })).remotePeer.toString();
  } catch (cause) {
    throw new Error(whyNoDial(cause), { cause });
  }
}

function whyNoDial(cause: unknown): string {
  const { name, message } = cause as Error;
  const text = `${name} ${message}`;
  if (/UnexpectedPeer|unexpected peer|does not match/i.test(text))
    return "Another node answers there than the address names: take its own id into the address (`aimo keygen` shows it there).";
  if (/timeout|timed out|abort/i.test(text))
    return `It was connected, and nothing came back within ${DIAL_WITHIN} ms: what listens there is no libp2p node, or it hangs.`;
  return `What listens there does not speak libp2p with us (${message.split("\n")[0]}): is it the port for peers, and not that of the HTTP API?`;
}

function models(node: AimoNode, peer: string, none: boolean): Promise<string> {
  const list = targetsOf(node, peer).map(({ model }) => model.id);
  if (list.length > 0)
    return Promise.resolve(`${list.slice(0, 10).join(", ")}${list.length > 10 ? `, … (${list.length})` : ""}`);
  if (none) return Promise.resolve("It offers no model itself, as a gateway does not.");
  throw new Error(
    "It offers no model: look at its provider, and whether the upstream lists any. A gateway has none of its own; --no-tokens lets that pass.",
  );
}

/** Where there is a host and a port before anything else. */
function whereOf(address: string): { host?: string; port?: number } {
  const [first, second] = multiaddr(address).getComponents();
  if (!/^(ip4|ip6|dns|dns4|dns6)$/.test(first?.name ?? "") || second?.name !== "tcp") return {};
  return { host: first?.value as string, port: Number(second.value) };
}

/** What the node would say stands in the findings. */
export function quiet(take: (message: string) => void = () => undefined): Plugin {
  return {
    name: "observer-doctor",
    enforce: "pre",
    provides: ["log"],
    setup: (node) => node.provide("log", (level, message) => void (level === "warn" && take(message))),
  };
}
