import { z } from "zod";
import { checkOptions, systemRuntime, type Plugin, type RequestFrame, type Target } from "../../core/index.ts";
import { byModel } from "./_by-model.ts";
import { costOf } from "./_cost.ts";
import { pluck } from "./_draw.ts";
import { createExperience } from "./_experience.ts";

export interface ScoreOptions {
  /** How much each figure counts: its exponent, 0 = not at all. */
  weights?: {
    /** What the request should cost. Default 3: half the price, eight times the calls. */
    price?: number;
    /** Time to the first chunk. Default 3. */
    firstChunk?: number;
    /** Chunks in a second. Default 1. */
    throughput?: number;
    /** Share of the attempts of late that went well. Default 8. */
    success?: number;
    /** What the peer has free, and our own calls there against those at the others. Default 1. */
    load?: number;
  };
  /** Share of the calls that begin at a target which was not asked for a minute, if there is one. Default 0.05. */
  explore?: number;
  /** Tokens that an answer is expected to have. Default 500. */
  completion?: number;
}

const weight = z.number().nonnegative();
const schema = z.strictObject({
  weights: z
    .strictObject({
      price: weight.default(3),
      firstChunk: weight.default(3),
      throughput: weight.default(1),
      success: weight.default(8),
      load: weight.default(1),
    })
    .prefault({}),
  explore: z.number().min(0).max(1).default(0.05),
  completion: z.number().nonnegative().default(500),
});

/** Not asked for so long a time: worth a look. ms */
const LONG_AGO = 60_000;
/** What is free counts as this share of the cheapest that costs something. */
const FREE = 0.1;
/** How much is left of the weight of a target above what it has taken of late, and of one that asked to be left alone. */
const ABOVE = 1e-9;
const LIMITED = 1e-12;

interface Weighed {
  readonly targets: readonly Target[];
  readonly weights: Float64Array;
}

/**
 * Shares the calls among all targets by how good they are: each is drawn at random with a weight made of price, time to
 * the first chunk, throughput, success, load, and what it has refused of late. What is not known of a target counts as
 * the mean. Retries are drawn again from the rest.
 */
export function score(options: ScoreOptions = {}): Plugin {
  const given = checkOptions("router-score", schema, options);
  let settings = given;
  const experience = createExperience();
  let runtime = systemRuntime;
  let last: { id: string; groups: Weighed[] } = { id: "", groups: [] };

  function weigh(targets: readonly Target[], request: Readonly<RequestFrame>, now: number): Float64Array {
    const { weights: counts, completion } = settings;
    const price = relative(costs(targets, ({ model }) => costOf(model, request, completion)));
    const firstChunk = relative(figures(targets, ({ stats }) => stats.firstChunk));
    const throughput = relative(figures(targets, ({ stats }) => stats.chunksPerSecond));
    const usual = 1 + targets.reduce((sum, { stats }) => sum + stats.inFlight, 0) / targets.length;
    return figures(targets, ({ id, stats, load = 0 }, i) => {
      const { failing, isAbove } = experience.of(id, now);
      const goodness =
        -counts.price * (price[i] as number) -
        counts.firstChunk * (firstChunk[i] as number) +
        counts.throughput * (throughput[i] as number) +
        counts.success * Math.log(1 - 0.99 * failing) +
        counts.load * Math.log((1 - 0.99 * load) / (1 + stats.inFlight / usual));
      return Math.exp(goodness) * ((stats.limitedUntil ?? 0) > now ? LIMITED : isAbove ? ABOVE : 1);
    });
  }

  function* draw({ targets, weights }: Weighed, now: number): Generator<Target> {
    const left = [...targets];
    const open = weights.slice();
    if (left.length > 1 && runtime.random() < settings.explore) {
      const unknown = targets.flatMap(({ id, stats }, i) =>
        stats.inFlight === 0 && (stats.limitedUntil ?? 0) <= now && now - experience.askedAt(id) > LONG_AGO ? [i] : [],
      );
      const at = unknown[Math.floor(runtime.random() * unknown.length)];
      if (at !== undefined) yield take(at);
    }
    while (left.length > 0) yield take(drawn(open, left.length, runtime.random()));

    function take(at: number): Target {
      open[at] = open[left.length - 1] as number;
      return pluck(left, at);
    }
  }

  function select(targets: readonly Target[], request: Readonly<RequestFrame>): Iterable<Target> {
    if (targets.length === 0) return [];
    const now = runtime.now();
    const weighed = { targets, weights: weigh(targets, request, now) };
    const groups = last.id === request.requestId ? last.groups : [];
    last = { id: request.requestId, groups: [...groups, weighed] };
    return draw(weighed, now);
  }

  return {
    name: "router-score",
    options: given,
    router: {
      select: byModel(select),
      explain(target, request) {
        const { stats, load } = target;
        const group =
          last.id === request.requestId ? last.groups.find(({ targets }) => targets.includes(target)) : undefined;
        const { failing, cap } = experience.of(target.id, runtime.now());
        return {
          share: group ? rounded(shareOf(target, group)) : "unknown",
          usd: costOf(target.model, request, settings.completion) ?? "unknown",
          firstChunk: stats.firstChunk ?? "unknown",
          chunksPerSecond: stats.chunksPerSecond ?? "unknown",
          failing: rounded(failing),
          inFlight: stats.inFlight,
          load: load ?? "unknown",
          ...(cap !== undefined && { capPerMinute: cap }),
        };
      },
    },
    hooks: {
      "call:attempt": (_, { id }) => experience.asked(id, runtime.now()),
      "call:attempted": (_, { id }, attempt) => experience.learn(id, attempt, runtime.now()),
    },
    setup: (node) => void (runtime = node.runtime),
    update(next) {
      settings = next.options as typeof settings; // what it has learned stays
      return true;
    },
  };
}

type Figure = (target: Target, i: number) => number | undefined;

/** NaN where it is not known. Plain loops here and below: a decision over a thousand targets is to take less than 1 ms. */
function figures(targets: readonly Target[], figure: Figure): Float64Array {
  const values = new Float64Array(targets.length);
  for (let i = 0; i < values.length; i++) values[i] = figure(targets[i] as Target, i) ?? NaN;
  return values;
}

/** Zero would be infinitely better than anything. */
function costs(targets: readonly Target[], cost: Figure): Float64Array {
  const usd = figures(targets, cost);
  let least = Infinity;
  for (const each of usd) if (each > 0 && each < least) least = each;
  return least === Infinity ? usd : usd.map((each) => (each === 0 ? FREE * least : each));
}

/** How far each is from the mean, as logarithms; 0 where it is not known. */
function relative(values: Float64Array): Float64Array {
  let sum = 0;
  let known = 0;
  for (let i = 0; i < values.length; i++) {
    const log = (values[i] = Math.log(Math.max(values[i] as number, 1e-12)));
    if (Number.isNaN(log)) continue;
    sum += log;
    known++;
  }
  const mean = known === 0 ? 0 : sum / known;
  for (let i = 0; i < values.length; i++) values[i] = (Number.isNaN(values[i]) ? mean : (values[i] as number)) - mean;
  return values;
}

/** The index that `random`, 0 … 1, points at, among the first so many. */
function drawn(weights: Float64Array, count: number, random: number): number {
  let rest = 0;
  for (let i = 0; i < count; i++) rest += weights[i] as number;
  rest *= random;
  for (let i = 0; i < count; i++) if ((rest -= weights[i] as number) < 0) return i;
  return count - 1;
}

function shareOf(target: Target, { targets, weights }: Weighed): number {
  return (weights[targets.indexOf(target)] as number) / weights.reduce((sum, each) => sum + each, 0);
}

function rounded(share: number): number {
  return Math.round(share * 1_000) / 1_000;
}
