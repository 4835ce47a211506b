import { z } from "zod";
import type { Origin } from "../../core/call.ts";
import { checkOptions } from "../../core/config.ts";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Plugin } from "../../core/plugin.ts";
import { createPlaces, SHARES, type Places, type Priority, type Room } from "./_queue.ts";
import { watchPressure, type Pressure } from "./_pressure.ts";
import { createRefusals, type Reason, type Refusals } from "./_refusals.ts";

export interface OverloadOptions {
  /** Calls that are served at a time. Default: nine tenths of `limits.calls`. */
  calls?: number;
  /** Calls that may wait for a place: as many of them as `limits.calls` leaves beside `calls`. Default 100. */
  queue?: number;
  /** How long a call may wait for a place, in any case less than `timeouts.hook`. ms. Default 1,000. */
  wait?: number;
  /** New calls are refused while the event loop is later than this, or connections wait for longer. ms. Default 100. */
  lag?: number;
  /** New calls are refused above this part of the heap's limit, or of the memory that the container may use. Default 0.9. */
  memory?: number;
}

const schema = z.strictObject({
  calls: z.number().int().positive().optional(),
  queue: z.number().int().nonnegative().default(100),
  wait: z.number().int().nonnegative().default(1_000),
  lag: z.number().positive().default(100),
  memory: z.number().positive().max(1).default(0.9),
});

/** `retry-after` lies between when there may be room and so much later, so that not all come back at once. ms */
const SPREAD = 2_000;
const SOONEST = 500;
const LATEST = 60_000;
/** Of a call's wait, before `timeouts.hook` would end it as a fault of this plugin. ms */
const AHEAD = 50;

/**
 * Keeps a node that is asked for too much quick for those that it serves: others wait a little, or are refused at once with
 * 503 OVERLOADED and `retry-after`. Clients of high priority (`allowance.priority`) go first and may use everything; normal
 * ones use at most nine tenths of `calls`, `queue` and `lag`, low ones seven.
 */
export function overload(options: OverloadOptions = {}): Plugin {
  const given = checkOptions("guard-overload", schema, options);
  let settings = given;
  let node: AimoNode;
  let places: Places;
  let pressure: Pressure;
  let refusals: Refusals;

  function room(): Room {
    const { limits, timeouts } = node.config;
    const calls = settings.calls ?? Math.ceil(0.9 * limits.calls);
    const queue = Math.min(settings.queue, Math.max(0, limits.calls - calls));
    return { calls, queue, wait: Math.max(0, Math.min(settings.wait, timeouts.hook - AHEAD)) };
  }

  function refusal(reason: Reason, why: string, priority: Priority, soonest = 0): AimoError {
    refusals.count(reason, priority);
    const spread = Math.max(SPREAD, soonest) * node.runtime.random();
    const retryAfter = Math.round(Math.min(LATEST, Math.max(SOONEST, soonest) + spread));
    return new AimoError("OVERLOADED", `${why}; try again shortly.`, { retryAfter });
  }

  /** Throws when a call cannot be served now, nor soon. */
  function refuse(priority: Priority): void {
    const { lag, memory } = pressure;
    if (memory > settings.memory)
      throw refusal(
        "memory",
        `${percent(memory)} of this node's memory is in use (\`memory\` of overload())`,
        priority,
      );
    if (lag > settings.lag * SHARES[priority])
      throw refusal("lag", `This node's event loop is ${Math.round(lag)} ms late (\`lag\` of overload())`, priority);
    const full = places.full(priority);
    if (full === undefined) return;
    const why =
      full.reason === "queue"
        ? "its queue is full (`calls` and `queue` of overload())"
        : "it would take too long until one is free (`calls` and `wait` of overload())";
    throw refusal(full.reason, `All places${of(priority)} of this node are taken, and ${why}`, priority, full.soonest);
  }

  return {
    name: "guard-overload",
    options: given,
    provides: ["load"],
    hooks: {
      // While the body is on its way there may be room again, or none any more: the place itself is taken with the call.
      "client:admit"(origin, scope) {
        if (scope === "call") refuse(priorityOf(origin));
      },
      "call:start"(call) {
        const priority = priorityOf(call.origin);
        refuse(priority);
        return places.enter(call, priority);
      },
      "call:end": (call, { status }) => places.leave(call, status === "ok"),
      "config:change"() {
        refusals.publish();
        places.serve(); // there may be more of them
      },
    },
    setup(face) {
      node = face;
      places = createPlaces(
        {
          room,
          late: (priority, ms) =>
            refusal(
              "late",
              `No place${of(priority)} became free in ${ms} ms (\`calls\` and \`wait\` of overload())`,
              priority,
            ),
          waited: (priority, ms) => refusals.waited(priority, ms),
          ended: (reason) => (AimoError.is(reason) ? reason : new AimoError("CANCELLED", "The client left.")),
        },
        node.runtime,
      );
      refusals = createRefusals(node, () => places);
      pressure = watchPressure(node.runtime);
      node.provide("load", () => {
        const { lag, memory } = pressure;
        if (lag > settings.lag || memory > settings.memory) return 1;
        return Math.min(1, places.taken / room().calls);
      });
    },
    update({ options: next }) {
      settings = next as typeof given;
      return true;
    },
    close() {
      pressure?.stop();
      refusals?.stop();
    },
  };
}

function priorityOf({ allowance }: Origin): Priority {
  return allowance?.priority ?? "normal";
}

/** For messages. */
function of(priority: Priority): string {
  return priority === "normal" ? "" : ` for calls of ${priority} priority`;
}

function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}
