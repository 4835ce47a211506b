import { z } from "zod";
import type { AimoNode } from "../../core/node.ts";
import { parseQuery } from "./_exchange.ts";
import type { Exchange } from "./http.ts";

/** How often the event loop is asked whether it is late, and how many answers count. ms */
const EVERY = 1_000;
const ANSWERS = 10;
/** ms */
const LATE = 500;
const STUCK = 5_000;
/** Of `limits.calls`. */
const NEARLY_FULL = 0.9;
/** Failures in a row after which a target is not counted on. */
const FAILURES = 3;

const status = z.enum(["ok", "degraded", "failing"]);
type Status = z.infer<typeof status>;

export const healthQuery = z.object({
  probe: z
    .enum(["ready", "live"], "must be ready or live")
    .default("ready")
    .describe("`ready`: can it take calls? `live`: does the process work, whatever is around it?"),
});

export const healthAnswer = z.object({
  status: status.describe("The worst of the checks."),
  checks: z.array(
    z.object({
      name: z.enum(["node", "loop", "providers", "calls"]),
      status,
      message: z.string().describe("One sentence."),
    }),
  ),
  id: z.string().describe("The node's peer id."),
  peers: z.number().int().describe("With links."),
  targets: z.number().int(),
  calls: z.number().int().describe("Open ones."),
});
type Check = z.infer<typeof healthAnswer>["checks"][number];

/** Is the node well, and why not? */
export interface Health {
  open(node: AimoNode): void;
  /** No new calls from now on. */
  leave(): void;
  close(): void;
  /** Also sets the status: 503 when a check fails. */
  show(exchange: Exchange): z.infer<typeof healthAnswer>;
}

export function createHealth(): Health {
  let node: AimoNode;
  let leaving = false;
  let stop = (): void => undefined;
  const lags: number[] = [];

  function watch(): void {
    const due = node.runtime.now() + EVERY;
    stop = node.runtime.setTimeout(EVERY, () => {
      lags.push(Math.max(0, Math.round(node.runtime.now() - due)));
      if (lags.length > ANSWERS) lags.shift();
      watch();
    });
  }

  function loop(): Check {
    const lag = Math.max(0, ...lags);
    const message = `The event loop was late by up to ${lag} ms in the last ${(ANSWERS * EVERY) / 1_000} s.`;
    return { name: "loop", status: lag > STUCK ? "failing" : lag > LATE ? "degraded" : "ok", message };
  }

  return {
    open(face) {
      node = face;
      watch();
    },
    leave: () => void (leaving = true),
    close: () => stop(),
    show({ req, res }) {
      const { probe } = parseQuery(req, healthQuery);
      const checks = probe === "live" ? [loop()] : [taking(leaving), loop(), providers(node), calls(node)];
      const worst = (["failing", "degraded"] as const).find((each) => checks.some((check) => check.status === each));
      if (worst === "failing") res.statusCode = 503;
      return {
        status: worst ?? "ok",
        checks,
        id: node.id,
        peers: [...node.peers].length,
        targets: [...node.targets].length,
        calls: [...node.calls].length,
      };
    },
  };
}

function taking(leaving: boolean): Check {
  if (leaving) return { name: "node", status: "failing", message: "The node is shutting down; ask another one." };
  return { name: "node", status: "ok", message: "The node takes calls." };
}

function providers(node: AimoNode): Check {
  const check = (state: Status, message: string): Check => ({ name: "providers", status: state, message });
  const targets = [...node.targets];
  const peers = [...node.peers].length;
  if (targets.some(({ stats }) => stats.failuresInRow < FAILURES))
    return check("ok", `${count(targets.length, "target")} can be called.`);
  if (targets.length > 0) return check("degraded", `Each target failed its last ${FAILURES} calls.`);
  if (peers > 0)
    return check(
      "degraded",
      `No model can be called: there is a link to ${count(peers, "peer")}, and none offers one.`,
    );
  return check("failing", "No model can be called: there is no provider, and no link to any peer.");
}

function calls({ calls: open, config }: AimoNode): Check {
  const most = config.limits.calls;
  const now = [...open].length;
  const state = now >= most ? "failing" : now >= NEARLY_FULL * most ? "degraded" : "ok";
  return { name: "calls", status: state, message: `${now} of ${count(most, "call")} are open.` };
}

function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}
