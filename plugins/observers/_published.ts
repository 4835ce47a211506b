import type * as Prom from "prom-client";
import type { Counter as PromCounter, Gauge as PromGauge, Histogram as PromHistogram, Registry } from "prom-client";
import { AimoError } from "../../core/error.ts";
import { label, OTHER } from "./_series.ts";

export type Labels<L extends string> = Readonly<Record<L, string>>;

export interface Counter<L extends string> {
  /** By 1, or by a finite number that is not negative; others are left out. */
  add(labels: Labels<L>, by?: number): void;
}

export interface Gauge<L extends string> {
  set(labels: Labels<L>, value: number): void;
}

export interface Histogram<L extends string> {
  observe(labels: Labels<L>, value: number): void;
}

/**
 * What plugins publish beside the node's own metrics: `node.find("metrics")?.counter("cache_hits_total", "…", ["model"])`.
 * The same name again is the same metric; it goes with the last plugin that asked for it. Throws CONFIG_INVALID for a name
 * that Prometheus does not take or that another metric has. Of a metric's series those beyond `maxLabels` are one, all of
 * whose labels are "other". Units belong into the name: `_seconds`, `_bytes`, and `_total` for counters.
 */
export interface Metrics {
  /** `read` adds what has come since, whenever somebody looks. */
  counter<L extends string = never>(
    name: string,
    help: string,
    labels?: readonly L[],
    read?: (counter: Counter<L>) => void,
  ): Counter<L>;
  /** `read` sets it anew whenever somebody looks. */
  gauge<L extends string = never>(
    name: string,
    help: string,
    labels?: readonly L[],
    read?: (gauge: Gauge<L>) => void,
  ): Gauge<L>;
  /** `buckets`: upper bounds, ascending. Default 5 ms to 10 s, in seconds. */
  histogram<L extends string = never>(
    name: string,
    help: string,
    labels?: readonly L[],
    buckets?: readonly number[],
  ): Histogram<L>;
}

interface Entry {
  readonly shape: string;
  readonly face: unknown;
  users: number;
}

/** `own` takes off what a plugin published when it goes. */
export function createPublished(
  { Counter: C, Gauge: G, Histogram: H }: typeof Prom,
  registry: Registry,
  most: () => number,
): (own: (off: () => void) => () => void) => Metrics {
  const entries = new Map<string, Entry>();

  return (own) => {
    function published<T>(kind: string, name: string, labels: readonly string[], make: () => T): T {
      const shape = `${kind}(${labels.join(", ")})`;
      let entry = entries.get(name);
      if (entry ? entry.shape !== shape : registry.getSingleMetric(name) !== undefined)
        throw invalid(`There is a metric "${name}" already: ${entry?.shape ?? "the node's own"}. Take another name.`);
      if (!/^[a-zA-Z_][a-zA-Z0-9_]*$/.test(name) || labels.some((each) => !/^[a-zA-Z][a-zA-Z0-9_]*$/.test(each)))
        throw invalid(
          `Prometheus takes letters, digits and "_" in names, not "${name}" with labels (${labels.join(", ")}).`,
        );
      if (entry === undefined) entries.set(name, (entry = { shape, face: make(), users: 0 }));
      const { face } = entry;
      entry.users++;
      own(() => {
        if (--entry.users > 0) return;
        entries.delete(name);
        registry.removeSingleMetric(name);
      });
      return face as T;
    }

    return {
      counter: (name, help, labels = [], read) =>
        published("counter", name, labels, () => {
          const init = { name, help, labelNames: [...labels], registers: [registry] };
          const metric: PromCounter = new C({ ...init, ...(read && { collect: () => read(face) }) });
          const bound = bounded(labels, most);
          const face: Counter<never> = {
            add: (of, by = 1) => void (by >= 0 && Number.isFinite(by) && metric.inc(bound(of), by)),
          };
          return face;
        }),
      gauge: (name, help, labels = [], read) =>
        published("gauge", name, labels, () => {
          let bound = bounded(labels, most);
          const collect = function (this: PromGauge): void {
            this.reset();
            bound = bounded(labels, most);
            read?.(face);
          };
          const init = { name, help, labelNames: [...labels], registers: [registry] };
          const metric: PromGauge = new G({ ...init, ...(read && { collect }) });
          const face: Gauge<never> = { set: (of, value) => metric.set(bound(of), value) };
          return face;
        }),
      histogram: (name, help, labels = [], buckets) =>
        published("histogram", name, labels, () => {
          const init = { name, help, labelNames: [...labels], registers: [registry] };
          const metric: PromHistogram = new H({ ...init, ...(buckets && { buckets: [...buckets] }) });
          const bound = bounded(labels, most);
          return { observe: (of, value) => void (Number.isFinite(value) && metric.observe(bound(of), value)) };
        }),
    };
  };
}

/** The labels of a series, of at most so many series. */
function bounded(names: readonly string[], most: () => number): (labels: Readonly<Record<string, string>>) => object {
  const known = new Set<string>();
  const other = Object.fromEntries(names.map((name) => [name, OTHER]));
  return (labels) => {
    const values = names.map((name) => label(labels[name] ?? ""));
    const key = JSON.stringify(values);
    if (!known.has(key) && known.size >= most()) return other;
    known.add(key);
    return Object.fromEntries(names.map((name, at) => [name, values[at]]));
  };
}

function invalid(message: string): AimoError {
  return new AimoError("CONFIG_INVALID", message);
}
