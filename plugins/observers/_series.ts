import type { MetricObjectWithValues, MetricValueWithName } from "prom-client";

/** Characters of a label's value. */
const LONGEST = 200;
export const OTHER = "other";

/** One provider's model, as labels. */
export interface Which {
  readonly provider: string;
  readonly model: string;
}

/** Labels of a target's id, of `most` of them; all that come later are one, since peers choose these names. */
export function createNames(most: () => number): (id: string | undefined) => Which {
  const known = new Map<string, Which>();
  const none = { provider: "", model: "" };
  const other = { provider: OTHER, model: OTHER };
  return (id) => {
    if (id === undefined) return none;
    const found = known.get(id);
    if (found || known.size >= most()) return found ?? other;
    const [peer = "", name = "", ...model] = id.split("/");
    const which = { provider: label(`${peer}/${name}`), model: label(model.join("/")) };
    known.set(id, which);
    return which;
  };
}

export function label(text: string): string {
  return text.slice(0, LONGEST).toWellFormed();
}

/** The gaps between the chunks of one provider's model. */
export interface Gaps {
  observe(seconds: number): void;
}

/**
 * A histogram for prom-client whose series are looked up once a call, not once a value: each chunk of each call is
 * counted here, and the labels of its own histogram cost more than all that a node does with a chunk.
 */
export function createGaps(name: string, help: string, bounds: readonly number[]) {
  const all = new Map<Which, { counts: Float64Array; sum: number }>();

  function* values(): Generator<MetricValueWithName<string>> {
    for (const [{ provider, model }, { counts, sum }] of all) {
      const labels = { provider, model };
      let total = 0;
      for (const [at, le] of [...bounds, "+Inf"].entries())
        yield { metricName: `${name}_bucket`, labels: { ...labels, le }, value: (total += counts[at] ?? 0) };
      yield { metricName: `${name}_sum`, labels, value: sum };
      yield { metricName: `${name}_count`, labels, value: total };
    }
  }

  return {
    of(which: Which): Gaps {
      const series = all.get(which) ?? { counts: new Float64Array(bounds.length + 1), sum: 0 };
      all.set(which, series);
      const { counts } = series;
      return {
        observe(seconds) {
          let at = 0;
          while (at < bounds.length && seconds > (bounds[at] as number)) at++;
          counts[at] = (counts[at] as number) + 1;
          series.sum += seconds;
        },
      };
    },
    metric: {
      name,
      get: async (): Promise<Omit<MetricObjectWithValues<MetricValueWithName<string>>, "collect">> => ({
        name,
        help,
        type: "histogram" as never,
        aggregator: "sum",
        values: [...values()],
      }),
    },
  };
}
