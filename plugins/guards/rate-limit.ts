import { z } from "zod";
import type { Attempt, Call, Origin } from "../../core/call.ts";
import { checkOptions } from "../../core/config.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Target } from "../../core/parts.ts";
import type { Plugin } from "../../core/plugin.ts";
import { networkOf } from "../frontends/_addresses.ts";
import type { Counter } from "../observers/_published.ts";
import { openStore } from "../stores/_store.ts";
import { tellLimit } from "./_limit-headers.ts";
import { createMeter, type Holding, type Limits, type Meter, type Scope } from "./_meter.ts";

export interface RateLimitOptions {
  /** For each client: a key, else a peer, else an address (IPv6: its /64). What a key's own limits say goes before it. */
  client?: {
    /** Calls a minute; `false`: no limit. Default 100. */
    requests?: number | false;
    /** Tokens a minute, those of prompts and answers; `false`: no limit. Default false. */
    tokens?: number | false;
    /** Calls at a time; `false`: no limit. Default false. */
    calls?: number | false;
  };
  /** For each provider that is asked; one whose limit is used up is left for the next. */
  provider?: {
    /** Calls a minute; `false`: no limit. Default 1,000. */
    requests?: number | false;
    /** Tokens a minute; `false`: no limit. Default false. */
    tokens?: number | false;
    /** Calls at a time; `false`: no limit. Default false. */
    calls?: number | false;
  };
  /** For all calls of this node together; other nodes have their own, also where they share a store. */
  node?: {
    /** Calls a minute; `false`: no limit. Default 10,000. */
    requests?: number | false;
    /** Tokens a minute; `false`: no limit. Default false. */
    tokens?: number | false;
    /** Calls at a time; `false`: no limit. Default false. */
    calls?: number | false;
  };
}

const limit = z.union([z.number().int().nonnegative(), z.literal(false)], "must be a whole number, or false for none");
const limits = (requests: number) =>
  z
    .strictObject({
      requests: limit.default(requests),
      tokens: limit.default(false),
      calls: limit.default(false),
    })
    .prefault({});
const schema = z.strictObject({ client: limits(100), provider: limits(1_000), node: limits(10_000) });

/** What a call took. */
interface Taken {
  /** Tokens that its prompt is taken for. */
  readonly prompt: number;
  /** Of the client and the node, and with a `target` of a provider. */
  readonly held: { readonly holding: Holding; readonly target?: string }[];
  /** Ids of the targets that were really asked. */
  readonly asked: Set<string>;
  over: boolean;
}

/** So many bytes of a prompt are taken for a token until its provider has counted. */
const BYTES_A_TOKEN = 4;
/** No call has more, whatever its provider says: a counter that overflows is an error of the store. */
const MOST_TOKENS = 10_000_000;

/**
 * Limits calls and tokens a minute, and calls at a time: for each client, for each provider, and for the node. Counted in the
 * store of the config, which nodes may share and whose clock counts then, else in memory. What was refused counts nowhere.
 */
export function rateLimit(options: RateLimitOptions = {}): Plugin {
  const given = checkOptions("guard-rate-limit", schema, options);
  let settings = given;
  const records = new WeakMap<Call, Taken>();
  let node: AimoNode;
  let meter: Meter;
  let published: unknown;
  let refusals: Counter<"scope" | "limit"> | undefined;

  /** Takes all of it for the call, or nothing. */
  async function take(scopes: readonly Scope[], { origin, headers }: Call, prompt: number): Promise<Holding[]> {
    const taken: Holding[] = [];
    try {
      for (const scope of scopes)
        taken.push(
          await meter.take(scope, prompt, (stand) => {
            // To the client its own limits, and those that it ran into: how busy the node is otherwise is not its business.
            const shown = scope.kind === "client" || (scope.kind === "node" && stand.refused);
            if (origin.kind === "client" && shown) tellLimit(headers, stand);
            if (stand.refused) refusals?.add({ scope: stand.kind, limit: stand.what });
          }),
        );
      return taken;
    } catch (error) {
      for (const holding of taken) holding.giveBack();
      throw error;
    }
  }

  /** A reload may have made them anew. */
  function publish(): void {
    const metrics = node.find("metrics");
    if (metrics === published) return;
    published = metrics;
    const help = "Calls and attempts that a limit refused.";
    refusals = metrics?.counter("aimo_rate_limited_total", help, ["scope", "limit"]);
  }

  /** What a call holds is settled to what is known now, as often as more is known. */
  function settle(call: Call, record: Taken, only?: string): void {
    for (const { holding, target } of record.held) {
      if (only !== undefined && only !== target) continue;
      holding.release();
      holding.settle(tokensOf(call, record, target));
    }
  }

  return {
    name: "guard-rate-limit",
    options: given,
    hooks: {
      "node:ready": publish,
      "config:change": publish,
      "call:start"(call, { body }) {
        const prompt = Math.max(1, Math.ceil(body.length / BYTES_A_TOKEN));
        const record: Taken = { prompt, held: [], asked: new Set(), over: false };
        records.set(call, record);
        // The node's come first: so they bound how many clients can be told apart.
        const scopes = [nodeScope(settings.node), ...clientScope(call.origin, settings.client)].filter(isLimited);
        if (scopes.length === 0) return undefined;
        return take(scopes, call, prompt).then((taken) => {
          record.held.push(...taken.map((holding) => ({ holding })));
          if (record.over) settle(call, record);
        });
      },
      "call:attempt"(call, target) {
        const record = records.get(call);
        const scope = providerScope(target, settings.provider);
        if (record === undefined || !isLimited(scope)) return undefined;
        // Of one that another plugin skipped nobody tells.
        for (const { target: before } of record.held)
          if (before !== undefined && attemptAt(call, before)?.endedAt !== undefined) settle(call, record, before);
        const attempt = attemptAt(call, target.id);
        return take([scope], call, record.prompt).then(([holding]) => {
          record.held.push({ holding: holding as Holding, target: target.id });
          // It was given up meanwhile, and nobody will tell of it.
          if (record.over || attempt?.endedAt !== undefined) settle(call, record, target.id);
        });
      },
      "call:attempted"(call, { id }) {
        const record = records.get(call);
        record?.asked.add(id);
        if (record) settle(call, record, id);
      },
      "call:end"(call) {
        const record = records.get(call);
        if (record === undefined) return;
        record.over = true;
        settle(call, record);
      },
      // Of a reply that was cancelled it may come after the end.
      "call:receipt"(_, call) {
        const record = records.get(call);
        if (record?.over) settle(call, record);
      },
    },
    async setup(face) {
      node = face;
      meter = createMeter(await openStore(node, "guard-rate-limit"), node.runtime);
    },
    update({ options: next }) {
      settings = next as typeof given;
      return true;
    },
    close: () => meter?.close(),
  };
}

function nodeScope(own: Limits): Scope {
  return { kind: "node", who: "This node", name: "", limits: own };
}

/** None for what the node asks itself. */
function clientScope({ kind, client, peer, address = "", allowance }: Origin, common: Limits): Scope[] {
  if (kind === "local") return [];
  const { requests, tokens, calls } = allowance?.limits ?? {};
  const own: Limits = {
    requests: requests ?? common.requests,
    tokens: tokens ?? common.tokens,
    calls: calls ?? common.calls,
  };
  // A key can be called like an address, and must not count with it.
  const name =
    client !== undefined ? `key ${client}` : peer !== undefined ? `peer ${peer}` : `address ${networkOf(address)}`;
  return [{ kind: "client", who: "This client", name, limits: own }];
}

/** Nodes that share a store count together what they ask of others, and not what the one that is asked counts of itself. */
function providerScope({ peer, provider, local }: Target, own: Limits): Scope {
  const name = `${local ? "here" : "there"} ${peer}/${provider}`;
  return { kind: "provider", who: `The provider ${provider}`, name, limits: own };
}

function isLimited({ limits: { requests, tokens, calls } }: Scope): boolean {
  return requests !== false || tokens !== false || calls !== false;
}

function attemptAt({ attempts }: Call, target: string): Attempt | undefined {
  return attempts.findLast((each) => each.target === target);
}

/** What a call cost, or what it cost at one target, as far as it is known. */
function tokensOf(call: Call, { prompt, asked }: Taken, target?: string): number {
  const { attempts, servedBy } = call;
  const last = servedBy ?? attempts.findLast((each) => asked.has(each.target));
  const attempt = target === undefined ? last : attemptAt(call, target);
  if (attempt === undefined || !asked.has(attempt.target)) return 0;
  const passed = attempt === servedBy ? call.chunks || Math.ceil(call.bytes / BYTES_A_TOKEN) : 0;
  const { promptTokens = prompt, completionTokens = passed } = attempt.receipt?.usage ?? {};
  return Math.max(0, Math.min(MOST_TOKENS, Math.round(promptTokens + completionTokens))) || 0;
}
