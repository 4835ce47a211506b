import { z } from "zod";
import type { Attempt, Call } from "../../core/call.ts";
import { checkOptions } from "../../core/config.ts";
import type { Receipt, RequestFrame } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Plugin } from "../../core/plugin.ts";
import { createMeters, type Meters } from "./_meters.ts";
import { createPublished, type Metrics } from "./_published.ts";
import { openScraped, type Scraped } from "./_scraped.ts";
import { label, type Gaps } from "./_series.ts";

export interface MetricsOptions {
  /** Where Prometheus finds it. Default "/metrics". */
  path?: string;
  /** A port of its own on loopback, where no key is asked for; 0 picks a free one. Default: none, it is a route of `http()` of the scope "read". */
  port?: number;
  /** Targets that are told apart, and series of each metric that a plugin publishes; those that come later are "other". Default 200. */
  maxLabels?: number;
}

declare module "aimo" {
  interface NodeServices {
    metrics: Metrics;
  }
}

const schema = z.strictObject({
  path: z
    .string()
    .regex(/^\/[\w./-]+$/, 'must look like "/metrics"')
    .default("/metrics"),
  port: z.number().int().min(0).max(65_535).optional(),
  maxLabels: z.number().int().positive().default(200),
});

/** What is known of a call before its end. */
interface Seen {
  readonly type: string;
  readonly bytes: number;
  gaps?: Gaps;
  /** Of the last chunk, or of the moment when the client was ready for more. Node's ms. */
  last?: number;
  waits?: boolean;
}

/** Metrics for Prometheus: calls, attempts, chunks, links, and the process. Never a prompt, a reply, a key or a client's name. */
export function metrics(options: MetricsOptions = {}): Plugin {
  let settings = checkOptions("observer-metrics", schema, options);
  const records = new WeakMap<Call, Seen>();
  let node: AimoNode;
  let meters: Meters;
  let scraped: Scraped | undefined;

  const open = (): Promise<Scraped> =>
    openScraped(
      node,
      settings.port,
      () => settings.path,
      () => meters.text(),
    );

  return {
    name: "observer-metrics",
    enforce: "pre",
    options: settings,
    needs: settings.port === undefined ? ["http"] : [],
    provides: ["metrics"],
    hooks: {
      // A route can be mounted now: the server comes after a `pre` plugin.
      async "node:ready"() {
        scraped ??= await open();
      },
      "call:start": (call, request) => void records.set(call, begin(request)),
      "call:attempt"({ attempts }, { id }) {
        if (attempts.filter(({ endedAt }) => endedAt === undefined).length > 1)
          return meters.hedges.inc(meters.which(id));
        const { target, error } = attempts.at(-2) ?? {};
        if (target !== undefined) meters.failovers.inc({ ...meters.which(target), code: error?.code ?? "" });
      },
      "call:chunk"(call, _, wait) {
        const record = records.get(call);
        if (record === undefined) return;
        const now = node.runtime.now();
        record.gaps ??= meters.gaps.of(meters.which(call.servedBy?.target));
        if (record.last !== undefined && record.waits !== true) record.gaps.observe((now - record.last) / 1_000);
        record.last = now;
        if (wait === undefined || record.waits === true) return;
        record.waits = true;
        void wait.then(() => {
          record.waits = false;
          record.last = node.runtime.now();
          meters.waits.inc(meters.which(call.servedBy?.target), Math.max(0, record.last - now) / 1_000);
        });
      },
      "call:move": (_, target, transport) => meters.moves.inc({ ...meters.which(target), transport }),
      "call:attempted"(_, { id }, { startedAt, firstChunkAt, error, link = "local" }) {
        const which = meters.which(id);
        meters.attempts.inc({ ...which, transport: link, code: error?.code ?? "" });
        if (firstChunkAt !== undefined) meters.attemptFirst.observe(which, (firstChunkAt - startedAt) / 1_000);
      },
      "call:receipt": (receipt, { attempts }) => count(receipt, attempts),
      "call:end"(call, { status, error, receipt }) {
        const { type = "", bytes: sent = 0 } = records.get(call) ?? {};
        const { servedBy, attempts, startedAt, bytes, chunks, origin } = call;
        const asked = servedBy ?? attempts.at(-1);
        const which = meters.which(asked?.target);
        const seconds = (at: number): number => Math.max(0, at - startedAt) / 1_000;
        meters.calls.inc({
          ...which,
          via: origin.via,
          // Whatever a client asks for has a type; what is offered is known.
          type: asked ? meters.type(type) : "",
          outcome: status,
          code: error?.code ?? "",
          status: `${String(error?.status ?? receipt?.status ?? 200)[0]}xx`,
        });
        meters.duration.observe({ ...which, outcome: status }, seconds(node.runtime.now()));
        if (servedBy?.firstChunkAt !== undefined) meters.first.observe(which, seconds(servedBy.firstChunkAt));
        meters.bytes.inc({ ...which, direction: "request" }, sent);
        meters.bytes.inc({ ...which, direction: "reply" }, bytes);
        meters.chunks.inc(which, chunks);
      },
      "frame:error": ({ code }) => meters.errors.inc({ code }),
      "node:error": ({ code, data }, plugin = data.plugin) =>
        meters.failures.inc({ code, plugin: plugin === undefined ? "" : label(plugin) }),
      "config:change": () => meters.reloads.inc(),
      "link:repair": (_, transport, bytes) => meters.repairs.inc({ transport }, bytes),
      "link:down": (_, transport, error) => meters.drops.inc({ transport, code: error?.code ?? "" }),
    },
    async setup(face) {
      node = face;
      const prom = await import("prom-client");
      meters = createMeters(prom, node, () => settings.maxLabels);
      const publish = createPublished(prom, meters.registry, () => settings.maxLabels);
      node.provide(
        "metrics",
        publish((off) => off),
        publish,
      );
      if (settings.port !== undefined) scraped = await open();
    },
    async update({ options: next }) {
      const { port, path } = settings;
      settings = next as typeof settings;
      if (settings.port === port && (port !== undefined || settings.path === path)) return true;
      const old = scraped;
      try {
        scraped = await open();
      } catch (error) {
        settings = { ...settings, port, path };
        throw error;
      }
      await old?.close();
      return true;
    },
    async close() {
      await scraped?.close();
      scraped = undefined;
    },
  };

  function begin({ type, body }: Readonly<RequestFrame>): Seen {
    return { type, bytes: body.length };
  }

  /** As the provider says it. */
  function count(receipt: Receipt, attempts: readonly Attempt[]): void {
    const { promptTokens, completionTokens, cost } = receipt.usage ?? {};
    const which = meters.which(attempts.find((attempt) => attempt.receipt === receipt)?.target);
    for (const [kind, tokens] of [
      ["prompt", promptTokens],
      ["completion", completionTokens],
    ] as const)
      if (isAmount(tokens)) meters.tokens.inc({ ...which, kind }, tokens);
    if (isAmount(cost)) meters.cost.inc(which, cost);
  }
}

function isAmount(value: unknown): value is number {
  return typeof value === "number" && value >= 0 && Number.isFinite(value);
}
