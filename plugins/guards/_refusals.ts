import type { AimoNode } from "../../core/node.ts";
import type { Counter, Histogram, Metrics } from "../observers/_published.ts";
import { PRIORITIES, type Places, type Priority } from "./_queue.ts";

export type Reason = "queue" | "wait" | "late" | "lag" | "memory";

/** Tells of refusals, and of those who wait: to the metrics each one, to the log when it begins and when it is over. */
export interface Refusals {
  count(reason: Reason, priority: Priority): void;
  waited(priority: Priority, ms: number): void;
  /** A reload may have brought metrics, or others. */
  publish(): void;
  stop(): void;
}

/** No refusal for so long: it is over. ms */
const OVER_AFTER = 10_000;

export function createRefusals(node: AimoNode, places: () => Places): Refusals {
  const { runtime } = node;
  let metrics: Metrics | undefined;
  let refused: Counter<"reason" | "priority"> | undefined;
  let waits: Histogram<"priority"> | undefined;
  let calls = 0;
  let beganAt = 0;
  let lastAt = 0;
  let stop: (() => void) | undefined;

  function publish(): void {
    if (node.find("metrics") === metrics) return;
    metrics = node.find("metrics");
    refused = metrics?.counter("aimo_overload_refused_total", "Calls that were refused.", ["reason", "priority"]);
    waits = metrics?.histogram("aimo_overload_wait_seconds", "How long calls waited for a place.", ["priority"]);
    metrics?.gauge("aimo_overload_waiting", "Calls that wait for a place.", ["priority"], (gauge) => {
      for (const priority of PRIORITIES) gauge.set({ priority }, places().waiting(priority));
    });
    metrics?.gauge("aimo_overload_serving", "Calls that have a place.", [], (gauge) => gauge.set({}, places().taken));
  }

  function look(): void {
    const left = lastAt + OVER_AFTER - runtime.now();
    if (left > 0) return void (stop = runtime.setTimeout(left, look));
    stop = undefined;
    node.log("info", "the node takes all calls again", { refused: calls, seconds: seconds(lastAt - beganAt) });
    calls = 0;
  }

  publish();
  return {
    publish,
    count(reason, priority) {
      refused?.add({ reason, priority });
      calls++;
      lastAt = runtime.now();
      if (stop !== undefined) return;
      beganAt = lastAt;
      stop = runtime.setTimeout(OVER_AFTER, look);
      node.log("warn", "the node is overloaded and refuses calls", { reason, priority });
    },
    waited: (priority, ms) => waits?.observe({ priority }, ms / 1_000),
    stop: () => stop?.(),
  };
}

function seconds(ms: number): number {
  return Math.round(ms / 100) / 10;
}
