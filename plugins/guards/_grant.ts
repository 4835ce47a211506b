import { hash } from "node:crypto";
import { z } from "zod";
import type { Allowance, Scope } from "../../core/call.ts";

const count = z.number().int().positive();

/** Unix ms, or a date that `Date` can read. */
const moment = z
  .union(
    [z.number().int().positive(), z.string().refine((text) => !Number.isNaN(Date.parse(text)))],
    "must be a date, or Unix ms",
  )
  .transform((when) => (typeof when === "string" ? Date.parse(when) : when));

/** What a key may do, as configs and admins say it. */
export const granted = z.strictObject({
  scopes: z
    .array(z.enum(["call", "read", "admin"]))
    .min(1, "must name at least one scope")
    .default(["call"]),
  expires: moment.optional(),
  models: z.array(z.string().min(1).max(200)).max(100).optional(),
  limits: z.strictObject({ requests: count.optional(), tokens: count.optional(), calls: count.optional() }).optional(),
  budget: z.strictObject({ usd: z.number().positive(), per: z.enum(["day", "month", "ever"]) }).optional(),
  priority: z.enum(["high", "normal", "low"]).optional(),
});

/** A key that is to be made. */
export const wished = granted.extend({
  name: z
    .string()
    .min(1)
    .max(100)
    .regex(/^[^\p{Cc}\p{Cf}]*$/u, "must have no control characters"),
});
export type Wish = z.input<typeof wished>;

export interface Grant {
  /** By which limits, ledger and logs know the client. */
  readonly client: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  /** Unix ms */
  readonly expires?: number | undefined;
  readonly allowance?: Allowance | undefined;
}

/** `call` reads, too, what is its own; `admin` may do all. */
export function hasScope({ scopes }: Pick<Grant, "scopes">, scope: Scope): boolean {
  return scopes.includes("admin") || scopes.includes(scope) || (scope === "read" && scopes.includes("call"));
}

/** Without what is not said. */
export function allowanceOf({
  models,
  limits,
  budget,
  priority,
}: Pick<z.output<typeof granted>, "models" | "limits" | "budget" | "priority">): Allowance | undefined {
  const said = Object.entries({ models, limits, budget, priority }).filter(([, value]) => value !== undefined);
  return said.length > 0 ? (Object.fromEntries(said) as Allowance) : undefined;
}

export function sha256(text: string): Buffer {
  return hash("sha256", text, "buffer");
}
