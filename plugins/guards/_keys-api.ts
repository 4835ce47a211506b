import { z } from "zod";
import type { Origin } from "../../core/call.ts";
import type { About, ToldSchema } from "../frontends/_about.ts";
import { parse } from "../frontends/_exchange.ts";
import type { Exchange, HttpService } from "../frontends/http.ts";
import type { KeyService } from "./api-keys.ts";
import { wished } from "./_grant.ts";

const PREFIXES = ["/v1", "/api/v1"];

/** How long the key before works on. ms */
export const rotation = z.strictObject({
  grace: z
    .number()
    .int()
    .nonnegative()
    .max(30 * 86_400_000)
    .default(0),
});

/** Keys over HTTP, for admins, and what one's own key may do. */
export function mountKeys({ mount }: Pick<HttpService, "mount">, keys: KeyService): void {
  const by = ({ client = "a client" }: Origin): string => client;
  const id = ({ params }: Exchange): string => params["id"] ?? "";
  const list = async (): Promise<object> => ({ object: "list", data: await keys.list() });
  const create = async (exchange: Exchange): Promise<object> => {
    const { key, ...data } = await keys.create(await exchange.json(wished), by(exchange.origin));
    exchange.res.statusCode = 201;
    return { key, data };
  };
  const rotate = async (exchange: Exchange): Promise<object> => {
    const body = await exchange.body();
    const { grace } = body.length > 0 ? parse(body, rotation) : { grace: 0 };
    const { key, ...data } = await keys.rotate(id(exchange), grace);
    return { key, data };
  };
  const revoke = async (exchange: Exchange): Promise<object> => {
    await keys.revoke(id(exchange));
    return { id: id(exchange), deleted: true };
  };
  const own = ({ origin }: Exchange): object => ({ data: showOwn(origin, keys) });
  for (const prefix of PREFIXES) {
    mount("GET", `${prefix}/keys`, "admin", list, about.list);
    mount("POST", `${prefix}/keys`, "admin", create, about.create);
    mount("POST", `${prefix}/keys/:id/rotate`, "admin", rotate, about.rotate);
    mount("DELETE", `${prefix}/keys/:id`, "admin", revoke, about.revoke);
    mount("GET", `${prefix}/key`, "read", own, about.own);
  }
}

const RESETS = { day: "daily", month: "monthly", ever: null } as const;

/** With the names that OpenRouter's clients read: `label`, `limit`, `limit_reset`, `rate_limit`. */
function showOwn(origin: Origin, keys: KeyService): object {
  const { client = "", allowance = {} } = origin;
  const key = keys.of(origin);
  const { budget, limits } = allowance;
  return {
    label: key?.name ?? client,
    client,
    // Of another guard's keys and tokens nobody here knows.
    ...(key && { scopes: key.scopes, expires: key.expires }),
    ...allowance,
    limit: budget?.usd ?? null,
    limit_reset: budget ? RESETS[budget.per] : null,
    rate_limit: limits?.requests === undefined ? null : { requests: limits.requests, interval: "1m" },
  };
}

const ms = z.number().describe("Unix ms.");
const shown = z.looseObject({
  id: z.string(),
  name: z.string(),
  scopes: z.array(z.string()),
  expires: ms.nullable(),
  createdAt: ms.nullable().describe("Unix ms; null: it is one of the config."),
  createdBy: z.string().describe("A client, `aimo keys`, or `config`."),
  lastUsed: ms.nullable().describe("Unix ms, of another node a minute late; null: never, or not known."),
});
const told = z.object({ key: z.string().describe("Told once and never again."), data: shown });
const json = (schema: ToldSchema) => ({ "application/json": schema });

const about = {
  list: {
    summary: "The keys of clients, without the keys themselves",
    answers: {
      200: { description: "A list.", content: json(z.object({ object: z.literal("list"), data: z.array(shown) })) },
    },
  },
  create: {
    summary: "Makes a key for a client",
    body: json(wished),
    answers: { 201: { description: "The key, and what it may do.", content: json(told) } },
  },
  rotate: {
    summary: "Makes another key in the place of one",
    description: "The id stays, and with it limits, budget and usage. The key before works for `grace` ms more.",
    body: json(rotation),
    answers: { 200: { description: "The new key.", content: json(told) } },
  },
  revoke: {
    summary: "Ends a key",
    description: "For good, and within a second on every node that shares the store. Calls that run go on.",
    answers: {
      200: {
        description: "It is refused from now on.",
        content: json(z.object({ id: z.string(), deleted: z.literal(true) })),
      },
    },
  },
  own: {
    summary: "What your own key may do",
    answers: {
      200: {
        description: "Its name, models, limits and budget; of a key of `apiKeys()` scopes and end, too.",
        content: json(z.object({ data: z.looseObject({ label: z.string(), scopes: z.array(z.string()).optional() }) })),
      },
    },
  },
} satisfies Record<string, About>;
