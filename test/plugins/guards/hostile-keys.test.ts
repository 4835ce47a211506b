import { describe, expect, it, onTestFinished } from "vitest";
import { createNode, type Plugin } from "../../../core/index.ts";
import { aimoApi, http, openaiApi } from "../../../plugins/frontends/index.ts";
import { apiKeys, walletKeys } from "../../../plugins/guards/index.ts";
import { pieces, provider } from "../../kit/local.ts";
import { sendRaw } from "../../kit/raw.ts";
import { wallet } from "../../kit/wallet.ts";

const quiet: Plugin = { name: "observer-quiet", setup: (node) => node.provide("log", () => undefined) };
const KEY = "sk-of-the-client-01";
const guards = {
  apiKeys: () => apiKeys({ keys: [KEY], admin: ["sk-of-the-admin-01"] }),
  walletKeys: () => walletKeys({ wallets: [wallet(7).id] }),
};

/** What is sent as a key by those who have none. */
const keys = {
  "SQL that is true": "' OR '1'='1' --",
  "SQL that drops": "x'; DROP TABLE keys; --",
  "SQL that sleeps": "1) AND pg_sleep(10)--",
  "an operator of a document store": '{"$ne":null}',
  "the name of a prototype": "__proto__",
  "the name of a constructor": "constructor",
  "the name of a method": "toString",
  "a key without its end": KEY.slice(0, -1),
  "a key with more behind it": `${KEY}1`,
  "a key in capitals": KEY.toUpperCase(),
  "a key twice": `${KEY},${KEY}`,
  "a key and another, with a blank": `${KEY} x`,
  "a star": "*",
  "a dot and a star": ".*",
  "8 KiB": "a".repeat(8_192),
  "8 KiB that begin like a wallet's key": `aimo-sk-dev-${"1".repeat(8_000)}`,
  "a wallet's key of nothing": "aimo-sk-dev-",
  "bytes beyond ASCII": "\xff\xfe",
  "a null in quotes": "\\0",
  "a template": "${process.env}",
} as const;

describe.each(Object.entries(guards))("%s", (_, guard) => {
  it.each(Object.entries(keys))(
    "refuses %s, in each header and by each host, and says nothing of it",
    async (__, key) => {
      const node = await createNode({
        drain: 0,
        plugins: [quiet, guard(), http({ port: 0 }), openaiApi(), aimoApi(), provider("p", pieces("x"))],
      });
      onTestFinished(() => node.close());
      const api = node.use("http").url as string;
      const body = JSON.stringify({ model: "m", messages: [] });
      for (const [line, hosts] of [
        [
          `authorization: Bearer ${key}`,
          ["127.0.0.1", "127.0.0.1/v1/health", "127.0.0.1?/v1/health", "x@127.0.0.1", ""],
        ],
        [`x-api-key: ${key}`, ["127.0.0.1"]],
        [`authorization: ${key}`, ["127.0.0.1"]],
      ] as const)
        for (const host of hosts) {
          const request = [
            "POST /v1/chat/completions HTTP/1.1",
            `host: ${host}`,
            "connection: close",
            line,
            `content-length: ${body.length}`,
            "",
            body,
          ].join("\r\n");
          const { statuses, text } = await sendRaw(api, [Buffer.from(request, "latin1")]);
          expect(statuses, `${line.slice(0, 60)}, ${host}`).toEqual([host === "127.0.0.1" ? 401 : 400]);
          expect(text).not.toContain(key.length > 3 ? key : KEY);
        }
    },
  );
});
