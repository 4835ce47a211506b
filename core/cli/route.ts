import { styleText } from "node:util";
import { AimoError } from "../error.ts";
import type { Decision, Weighed } from "../route.ts";
import { checkKnown, findNode, type Asked } from "./ask.ts";
import type { ListedTarget } from "./models.ts";
import { pairs, rounded, plain, printJson, short } from "./table.ts";

export interface RouteOptions extends Asked {
  readonly model: string;
  readonly type: string;
  /** Of the request's body. bytes */
  readonly size: number;
  readonly provider?: string;
  /** `name:value` */
  readonly header?: readonly string[];
  readonly explain?: boolean;
}

/** As the node sends it: its error is the object that clients get. */
type Shown = Omit<Decision, "error"> & { readonly error?: { readonly message: string; readonly code: string } };

/** What the routers of a running node would decide now. Throws when no target is left. */
export async function route({
  model,
  type,
  size,
  provider,
  header = [],
  explain = false,
  ...asked
}: RouteOptions): Promise<void> {
  const node = await findNode(asked.node);
  const { data } = await node.ask<{ data: ListedTarget[] }>("/models");
  checkKnown("model", model, [...new Set(data.map((target) => target.model))]);
  if (provider !== undefined)
    checkKnown("provider", provider, [
      ...new Set(data.flatMap((target) => [target.peer, target.id, ...(target.local ? [target.provider] : [])])),
    ]);
  const headers = Object.fromEntries(header.map(toHeader));
  const shown = await node.ask<Shown>("/route", {
    model,
    type,
    size,
    headers,
    ...(provider !== undefined && { provider }),
  });
  if (asked.json) printJson(shown);
  else
    process.stdout.write(
      explain
        ? explanation(shown, `${model}, ${type}, ${size} bytes`)
        : orderOf(shown)
            .map((id) => `${plain(id)}\n`)
            .join(""),
    );
  if (shown.error) throw new AimoError("NO_PROVIDER", shown.error.message);
}

function orderOf({ candidates, steps, error }: Shown): readonly string[] {
  if (error) return [];
  return steps.at(-1)?.targets.map(({ id }) => id) ?? candidates;
}

function explanation(shown: Shown, what: string): string {
  const { candidates, steps, error } = shown;
  const lines = [
    `${plain(what)}: ${candidates.length} of the catalog's targets can answer it`,
    ...candidates.map((id) => `     ${short(id)}`),
  ];
  let before = candidates;
  for (const { router, targets, dropped } of steps) {
    const after = targets.map(({ id }) => id);
    const kept = before.filter((id) => after.includes(id));
    const reordered = kept.some((id, i) => after[i] !== id);
    const did = [dropped.length > 0 && `leaves out ${dropped.length}`, reordered && "orders them anew"].filter(Boolean);
    lines.push(`${styleText("bold", router)} ${did.join(" and ") || "leaves them as they are"}`);
    for (const [i, weighed] of targets.entries()) lines.push(`  ${i + 1}  ${figuresOf(weighed)}`);
    for (const weighed of dropped) lines.push(styleText("dim", `  -  ${figuresOf(weighed)}`));
    before = after;
  }
  if (error === undefined) lines.push(`Tried in this order: ${before.map(short).join(", ")}`);
  return lines.map((line) => `${line}\n`).join("");
}

function figuresOf({ id, figures }: Weighed): string {
  return `${short(id)}${Object.keys(figures).length > 0 ? `  ${plain(pairs(rounded(figures)))}` : ""}`;
}

function toHeader(text: string): [string, string] {
  const colon = text.indexOf(":");
  if (colon > 0) return [text.slice(0, colon).trim().toLowerCase(), text.slice(colon + 1).trim()];
  throw new AimoError("CONFIG_INVALID", `--header ${text}: a header looks like name:value.`);
}
