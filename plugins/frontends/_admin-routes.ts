import type { IncomingMessage } from "node:http";
import { z } from "zod";
import type { Call } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import type { Headers } from "../../core/frame.ts";
import { listPlugins } from "../../core/listing.ts";
import { mask } from "../../core/mask.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Target } from "../../core/parts.ts";
import type { Decision } from "../../core/route.ts";
import { ownPackage } from "../../core/package.ts";
import { signReceipt } from "../../core/wire/receipt.ts";
import { rowsQuery, usageQuery, type Ledger } from "../observers/_ledger-query.ts";
import type { Row } from "../observers/_ledger-row.ts";
import { forwarded } from "./_answer.ts";
import { parse, parseQuery } from "./_exchange.ts";

/** What only the plugin knows. Unix ms. */
export interface Since {
  readonly start: number;
  readonly peers: ReadonlyMap<string, number>;
  /** Peers that do not take what this node offers. */
  readonly refused: ReadonlyMap<string, Refusal>;
}

export interface Refusal {
  readonly at: number;
  readonly why: string;
}

/** A peer that goes on refusing says so once a minute. ms */
const REFUSAL_COUNTS = 180_000;

export function showNode(node: AimoNode, { start }: Pick<Since, "start">): object {
  const { id, config, runtime } = node;
  return {
    id,
    version: ownPackage().version,
    pid: process.pid,
    uptime: Math.round(runtime.now() - start),
    api: node.find("http")?.url ?? null,
    addresses: node.find("libp2p")?.addresses ?? [],
    dataDir: config.dataDir ?? null,
    peers: [...node.peers].length,
    targets: [...node.targets].length,
    calls: [...node.calls].length,
  };
}

export function showConfig({ config }: AimoNode): object {
  const { plugins, disable, ...fields } = config;
  return { ...(mask(fields) as object), disable, plugins: listPlugins(plugins, disable) };
}

export function showPlugins({ config }: AimoNode): object {
  return { data: listPlugins(config.plugins, config.disable) };
}

export function showPeers(node: AimoNode, since: Since): object {
  const targets = Map.groupBy(node.targets, ({ peer }) => peer);
  const whyRefused = (peer: string): string | undefined => {
    const { at, why } = since.refused.get(peer) ?? { at: Number.NEGATIVE_INFINITY };
    return node.runtime.now() - at < REFUSAL_COUNTS ? why : undefined;
  };
  const linked = new Map([...node.peers].map(({ id, links }) => [id, links]));
  // Peers that only a relay has a link to are known by their models.
  const ids = new Set([...linked.keys(), ...[...targets.keys()].filter((peer) => peer !== node.id)]);
  return {
    data: [...ids].map((id) => {
      const own = targets.get(id) ?? [];
      const refuses = whyRefused(id);
      const load = own.find((target) => target.load !== undefined)?.load;
      return {
        id,
        links: linked.get(id) ?? [],
        load: load ?? null,
        models: own.length,
        since: linked.has(id) ? (since.peers.get(id) ?? null) : null,
        ...(refuses !== undefined && { refuses }),
      };
    }),
  };
}

/** `routing`: the figures of the routers that were asked, in order, and the one that leaves it out of a call now. */
export function showModels(node: AimoNode): object {
  const targets = [...node.targets];
  const links = new Map([...node.peers].map(({ id, links }) => [id, links]));
  const decisions = Map.groupBy(targets, ({ model }) => model.id);
  const routing = new Map<string, object>();
  for (const [model, [first]] of decisions) {
    const type = first?.model.types[0] ?? "http";
    const decision = node.route({ type, model, contentType: "application/json", body: new Uint8Array() });
    for (const id of decision.candidates) routing.set(id, routingOf(id, decision));
  }
  return { data: targets.map((target) => showTarget(target, links, routing)) };
}

function showTarget(
  target: Target,
  links: ReadonlyMap<string, readonly string[]>,
  routing: Map<string, object>,
): object {
  const { id, peer, provider, local, model, load, stats } = target;
  return {
    id,
    model: model.id,
    provider,
    peer,
    local,
    via: local ? [] : (links.get(peer) ?? []),
    load: load ?? null,
    stats,
    card: model,
    routing: routing.get(id) ?? {},
  };
}

function routingOf(id: string, { steps, error }: Decision): object {
  const figures: Record<string, object> = {};
  for (const { router, targets, dropped } of steps) {
    const found = targets.find((target) => target.id === id);
    const weighed = found ?? dropped.find((target) => target.id === id);
    if (weighed && Object.keys(weighed.figures).length > 0) figures[router] = weighed.figures;
    if (found === undefined) return { figures, leftOutBy: router };
  }
  return { figures, ...(error && { leftOutBy: error.message }) };
}

export function showCalls({ calls }: AimoNode): object {
  return { data: [...calls].map(showCall) };
}

/** No header and no body of it. */
function showCall({ id, origin, startedAt, attempts, chunks, bytes }: Call): object {
  const { kind, via, client, peer } = origin;
  return {
    id,
    startedAt,
    origin: { kind, via, ...(client !== undefined && { client }), ...(peer !== undefined && { peer }) },
    chunks,
    bytes,
    attempts: attempts.map(({ target, link, startedAt: at, firstChunkAt, endedAt, error }) => ({
      target,
      via: link ?? "local",
      startedAt: at,
      firstChunkAt: firstChunkAt ?? null,
      endedAt: endedAt ?? null,
      ...(error && { code: error.code }),
    })),
  };
}

/** Sums. Throws INVALID_MESSAGE_FORMAT where no ledger is kept. */
export function showUsage(node: AimoNode, req: IncomingMessage): Promise<object> {
  return ledgerOf(node).usage(parseQuery(req, usageQuery));
}

/** A page of what was booked. What the node itself has said it signs now. */
export async function showRows(node: AimoNode, req: IncomingMessage): Promise<object> {
  const page = await ledgerOf(node).rows(parseQuery(req, rowsQuery));
  return { ...page, data: page.data.map((row) => signed(row, node)) };
}

function ledgerOf(node: AimoNode): Ledger {
  const ledger = node.find("ledger");
  if (ledger !== undefined) return ledger;
  const message = "This node keeps no ledger: add `ledger()` from aimo/observers to its `plugins`.";
  throw new AimoError("INVALID_MESSAGE_FORMAT", message, { status: 404 });
}

function signed(row: Row, { id, identity }: AimoNode): Row {
  if (row.receipt === null || row.signature !== null || row.peer !== id) return row;
  const signature = signReceipt(Buffer.from(row.receipt, "base64"), identity);
  return { ...row, signature: Buffer.from(signature).toString("base64") };
}

const question = z.strictObject({
  model: z.string().min(1),
  type: z.string().min(1).default("openai.chat"),
  /** Of the body. bytes */
  size: z.number().int().nonnegative().default(0),
  stream: z.boolean().default(true),
  provider: z.string().min(1).optional(),
  headers: z.record(z.string(), z.string()).default({}),
});

/** What `POST /route` asks. Throws INVALID_MESSAGE_FORMAT. */
export function decide(node: AimoNode, body: Uint8Array): object {
  const { size, provider, headers: given, ...asked } = parse(body, question);
  const headers: Headers = {};
  for (const [name, value] of Object.entries(given)) headers[name.toLowerCase()] = value;
  const { error, ...decision } = node.route(
    {
      ...asked,
      contentType: "application/json",
      body: new Uint8Array(Math.min(size, node.config.limits.body)),
      headers: forwarded(headers),
      ...(provider !== undefined && { providerId: provider }),
    },
    { kind: "local", via: "admin", headers },
  );
  return { ...decision, ...(error && error.toJSON()) };
}
