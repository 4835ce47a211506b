import { confirm } from "@clack/prompts";
import type { ShownKey } from "../../plugins/guards/_made-keys.ts";
import type { Allowance, Scope } from "../call.ts";
import { AimoError } from "../error.ts";
import { findNode, type Asked } from "./ask.ts";
import { orLeft } from "./left.ts";
import { duration, plain, printJson, table } from "./table.ts";

type Where = Omit<Asked, "url">;

export interface CreateOptions extends Where {
  readonly name: string;
  readonly scope?: readonly string[];
  /** Unix ms */
  readonly expires?: number;
  readonly model?: readonly string[];
  readonly requests?: number;
  readonly tokens?: number;
  readonly calls?: number;
  readonly budget?: NonNullable<Allowance["budget"]>;
  readonly priority?: string;
}

type Made = ShownKey & { readonly key: string };

/** The key alone on stdout, what it is on stderr. */
export async function create({ node, json, name, scope, expires, model, priority, budget, ...rest }: CreateOptions) {
  const { requests, tokens, calls } = rest;
  const limits = { requests, tokens, calls };
  const made = await (
    await findNode(node)
  ).ask<Made>("/keys", {
    name,
    ...(scope && { scopes: scope as readonly Scope[] }),
    ...(expires !== undefined && { expires }),
    ...(model && { models: model }),
    ...(Object.values(limits).some((limit) => limit !== undefined) && { limits }),
    ...(budget && { budget }),
    ...(priority !== undefined && { priority }),
  });
  tell(made, json, `${made.id} is made for ${plain(made.name)}`);
}

export async function list({ node, json = false }: Where): Promise<void> {
  const { data } = await (await findNode(node)).ask<{ data: ShownKey[] }>("/keys");
  if (json) return printJson({ data });
  if (data.length === 0) return void process.stdout.write("There is no key: make one with `aimo keys create`.\n");
  const now = Date.now();
  const rows = data.map((key) => [
    key.id,
    key.name,
    key.scopes.join(", "),
    key.lastUsed === null ? "-" : `${duration(Math.max(0, now - key.lastUsed))} ago`,
    key.expires === null ? "never" : key.expires > now ? `in ${duration(key.expires - now)}` : "has expired",
    limitsOf(key) || "-",
    key.createdBy,
  ]);
  process.stdout.write(table(["ID", "NAME", "SCOPES", "LAST USED", "EXPIRES", "LIMITS", "MADE BY"], rows));
}

export async function rotate(
  id: string,
  { node, json, grace = 0 }: Where & { readonly grace?: number },
): Promise<void> {
  const made = await (await findNode(node)).ask<Made>("/keys/rotate", { id, grace });
  const before = grace > 0 ? `works for ${duration(grace)} more` : "is refused from now on";
  tell(made, json, `${made.id} has another key; the one before ${before}`);
}

/** Asks on a terminal. Throws CONFIG_INVALID where there is none and nobody has said yes. */
export async function revoke(id: string, { node, json = false, yes = false }: Where & { readonly yes?: boolean }) {
  const running = await findNode(node);
  if (!yes && !(await isSure(id, json))) {
    process.exitCode = 1;
    return;
  }
  await running.ask("/keys/revoke", { id });
  if (json) printJson({ id, deleted: true });
  else process.stdout.write(`${plain(id)} is revoked: it is refused from now on.\n`);
}

async function isSure(id: string, json: boolean): Promise<boolean> {
  if (json || !process.stdin.isTTY || !process.stdout.isTTY)
    throw new AimoError("CONFIG_INVALID", "A key that is revoked cannot be had back: say --yes.");
  return (await orLeft(confirm({ message: `Revoke ${plain(id)} for good?`, initialValue: false }))) === true;
}

function tell({ key, ...made }: Made, json: boolean | undefined, sentence: string): void {
  if (json) return printJson({ key, ...made });
  process.stdout.write(`${key}\n`);
  process.stderr.write(`${sentence}. The key is shown this once.\n`);
}

function limitsOf({ models, limits = {}, budget, priority }: ShownKey): string {
  const { requests, tokens, calls } = limits;
  return [
    models && (models.join(", ") || "no model"),
    requests !== undefined && `${requests} requests/min`,
    tokens !== undefined && `${tokens} tokens/min`,
    calls !== undefined && `${calls} calls at a time`,
    budget && `US$ ${budget.usd}${budget.per === "ever" ? "" : `/${budget.per}`}`,
    priority && `${priority} priority`,
  ]
    .filter(Boolean)
    .join("; ");
}
