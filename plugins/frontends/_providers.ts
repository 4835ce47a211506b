import type { z } from "zod";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Target } from "../../core/parts.ts";
import type { card, SignedAdvert } from "../../core/wire/advert.ts";
import { decodeMessage, Type } from "../../core/wire/codec.ts";
import { decodeHead } from "../../core/wire/heads.ts";
import { advertShown, type providerList, type providerShown } from "./_aimo-about.ts";
import { parse } from "./_exchange.ts";
import type { Exchange } from "./http.ts";

/** Peers of which something is remembered; the oldest are forgotten. */
const PEERS = 10_000;

type Shown = z.infer<typeof providerShown>;

/** What this node knows of providers and their nodes. */
export interface Providers {
  /** Watches this node. */
  open(node: AimoNode): void;
  list(): z.infer<typeof providerList>;
  /** `peer` or `peer/provider`. Throws PROVIDER_NOT_FOUND. */
  show(id: string): Shown;
  /** This node's own. */
  advert(): z.infer<typeof advertShown>;
  /** Takes the advert in the body. Rejects as `node.register`. */
  register(exchange: Exchange): Promise<Shown>;
}

export function createProviders(): Providers {
  let node: AimoNode;
  const joined = new Map<string, number>();
  const adverts = new Map<string, NonNullable<Shown["advert"]>>();
  const receipts = new Map<string, Shown["receipts"]>();

  function remember<T>(map: Map<string, T>, peer: string, value: T): void {
    map.delete(peer);
    map.set(peer, value);
    if (map.size > PEERS) map.delete(map.keys().next().value as string);
  }

  function show(id: string): Shown {
    const [peer = "", ...rest] = id.split("/");
    const name = rest.length > 0 ? rest.join("/") : undefined;
    const linked = [...node.peers].find((each) => each.id === peer);
    const targets = [...node.targets].filter(
      (target) => target.peer === peer && (name === undefined || target.provider === name),
    );
    if (targets.length === 0 && (name !== undefined || (linked === undefined && peer !== node.id)))
      throw new AimoError("PROVIDER_NOT_FOUND", `There is no provider ${JSON.stringify(id.slice(0, 200))}.`);
    return {
      id: peer,
      object: "provider",
      local: peer === node.id,
      load: targets[0]?.load ?? null,
      via: [...(linked?.links ?? [])],
      since: linked ? (joined.get(peer) ?? null) : null,
      targets: targets.map(({ id: target, provider, model, stats }) => ({
        id: target,
        provider,
        model: model as z.infer<typeof card>,
        stats,
      })),
      advert: adverts.get(peer) ?? null,
      receipts: receipts.get(peer) ?? NONE,
    };
  }

  return {
    open(face) {
      node = face;
      const now = (): number => Math.round(node.runtime.now());
      node.hook("peer:join", (peer) => remember(joined, peer, now()));
      node.hook("peer:leave", (peer) => void joined.delete(peer));
      node.hook("frame:heartbeat", ({ senderId, timestamp, status, ttl }) =>
        remember(adverts, senderId, { at: now(), timestamp, status, ttl }),
      );
      node.hook("call:receipt", ({ provider, outcome, bytes, endedAt }) => {
        const before = receipts.get(provider) ?? NONE;
        const seen = {
          seen: before.seen + 1,
          [outcome]: before[outcome] + 1,
          bytes: before.bytes + bytes,
          last: endedAt,
        };
        remember(receipts, provider, { ...before, ...seen });
      });
    },
    list() {
      const links = new Map([...node.peers].map((peer) => [peer.id, peer.links]));
      const groups = Map.groupBy<string, Target>(node.targets, ({ peer, provider }) => `${peer}/${provider}`);
      const data = [...groups.values()].map((targets) => {
        const { peer, provider, local, load: said } = targets[0] as Target;
        const models = targets.map((target) => target.model as z.infer<typeof card>);
        const at = [...(links.get(peer) ?? [])];
        return { id: peer, object: "provider" as const, name: provider, local, load: said ?? null, via: at, models };
      });
      return { object: "list", data };
    },
    show,
    advert() {
      const [blob = "", signature = ""] = [node.advert.blob, node.advert.signature].map((bytes) =>
        Buffer.from(bytes).toString("base64"),
      );
      return { object: "advert", peer: node.id, blob, signature };
    },
    async register(exchange) {
      const body = await exchange.body();
      const json = /\bjson\b/i.test(exchange.req.headers["content-type"] ?? "");
      return show(await node.register(json ? fromJSON(body) : fromMessage(body)));
    },
  };
}

const NONE: Shown["receipts"] = { seen: 0, complete: 0, cancelled: 0, failed: 0, bytes: 0, last: null };

function fromJSON(body: Uint8Array): SignedAdvert {
  const { blob, signature } = parse(body, advertShown);
  return { blob: Buffer.from(blob, "base64"), signature: Buffer.from(signature, "base64") };
}

/** The link message as which nodes send it to each other. */
function fromMessage(body: Uint8Array): SignedAdvert {
  const message = decodeMessage(body);
  const { blob, signature } = message?.type === Type.ADVERT ? decodeHead(Type.ADVERT, message.body) : {};
  if (blob && signature) return { blob, signature };
  throw new AimoError(
    "INVALID_MESSAGE_FORMAT",
    "The body is no advert: send a whole ADVERT message, or JSON with `blob` and `signature`.",
  );
}
