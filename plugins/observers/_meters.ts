import type * as Prom from "prom-client";
import type { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { AimoNode } from "../../core/node.ts";
import { ownPackage } from "../../core/package.ts";
import { createGaps, createNames, label, OTHER, type Which } from "./_series.ts";

const SECONDS = [0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];
const GAPS = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60];

/** Gauges that prom-client names as if they were counters. */
const MISNAMED = ["nodejs_active_handles_total", "nodejs_active_requests_total", "nodejs_active_resources_total"];

let ofProcess: Registry | undefined;

/** Once for all nodes of the process: what watches the loop and the collector cannot be taken off again. */
function processMetrics({ Registry, collectDefaultMetrics }: typeof Prom): Registry {
  if (ofProcess) return ofProcess;
  ofProcess = new Registry();
  collectDefaultMetrics({ register: ofProcess });
  for (const name of MISNAMED) ofProcess.removeSingleMetric(name);
  return ofProcess;
}

/** All metrics of one node. */
export interface Meters extends ReturnType<typeof createMeters> {}

export function createMeters(prom: typeof Prom, node: AimoNode, most: () => number) {
  const registry = new prom.Registry();
  const registers = [registry];
  const counter = <L extends string = never>(name: string, help: string, ...labelNames: L[]): Counter<L> =>
    new prom.Counter({ name: `aimo_${name}`, help, labelNames, registers });
  const histogram = <L extends string>(name: string, help: string, ...labelNames: L[]): Histogram<L> =>
    new prom.Histogram({ name: `aimo_${name}`, help, labelNames, registers, buckets: SECONDS });
  /** Read when somebody looks. */
  const gauge = <L extends string = never>(name: string, help: string, labels: L[], read: (to: Gauge<L>) => void) =>
    new prom.Gauge({
      name: `aimo_${name}`,
      help,
      labelNames: labels,
      registers,
      collect() {
        this.reset();
        read(this);
      },
    });

  const gaps = createGaps(
    "aimo_chunk_gap_seconds",
    "Between two chunks of a reply, while the client takes them.",
    GAPS,
  );
  registry.registerMetric(gaps.metric as never);

  gauge("info", "The version of aimo, and the node's peer id.", ["version", "peer"], (to) =>
    to.set({ version: ownPackage().version, peer: node.id }, 1),
  );
  gauge("calls_open", "Calls that run now.", [], (to) => to.set([...node.calls].length));
  gauge("peers", "Peers that this node has a link to.", [], (to) => to.set([...node.peers].length));
  gauge("links", "Links to peers that are up.", ["transport"], (to) => {
    for (const { links } of node.peers) for (const transport of links) to.inc({ transport });
  });
  gauge("targets", "Models at providers that can be called.", ["where"], (to) => {
    for (const where of ["local", "remote"] as const) to.set({ where }, 0);
    for (const { local } of node.targets) to.inc({ where: local ? "local" : "remote" });
  });

  const types = new Set<string>();
  const target: (keyof Which)[] = ["provider", "model"];
  return {
    registry,
    which: createNames(most),
    /** Peers may offer any. */
    type(name: string): string {
      if (!types.has(name) && types.size >= most()) return OTHER;
      types.add(name);
      return label(name);
    },
    gaps,
    calls: counter(
      "calls_total",
      "Calls that ended. `via`: the frontend or transport; `status`: of the answer, or of its error.",
      "via",
      "type",
      ...target,
      "outcome",
      "code",
      "status",
    ),
    duration: histogram("call_duration_seconds", "From the request to the end of the answer.", ...target, "outcome"),
    first: histogram("first_chunk_seconds", "From the request to the first chunk of substance.", ...target),
    attempts: counter(
      "attempts_total",
      "Tries at a provider that ended; those with a `code` failed, or were overtaken (CANCELLED).",
      ...target,
      "transport",
      "code",
    ),
    attemptFirst: histogram("attempt_first_chunk_seconds", "From asking a provider to its first chunk.", ...target),
    hedges: counter("hedges_total", "Tries that were begun beside another one that was slow.", ...target),
    failovers: counter(
      "failovers_total",
      "Calls that went on to another provider, by the one that had failed.",
      ...target,
      "code",
    ),
    moves: counter("moves_total", "Replies that went on over another link.", ...target, "transport"),
    chunks: counter("chunks_total", "Chunks that went to clients, counted at the end of the call.", ...target),
    bytes: counter("body_bytes_total", "Bytes of bodies, counted at the end of the call.", ...target, "direction"),
    waits: counter("client_wait_seconds_total", "How long providers waited for clients that were behind.", ...target),
    tokens: counter("tokens_total", "Tokens, as the providers said.", ...target, "kind"),
    cost: counter("cost_usd_total", "US$, as the providers said.", ...target),
    errors: counter("errors_total", "Errors that clients got.", "code"),
    failures: counter("background_errors_total", "Failures that belong to no call.", "code", "plugin"),
    repairs: counter("link_repeated_bytes_total", "Bytes sent again over links that lose some.", "transport"),
    drops: counter("links_closed_total", "Links that closed; with a `code` they broke.", "transport", "code"),
    reloads: counter("reloads_total", "Configs that were taken while the node ran."),
    text: async (): Promise<string> => `${await registry.metrics()}\n${await processMetrics(prom).metrics()}`,
  };
}
