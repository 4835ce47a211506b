import { readFileSync, writeFileSync } from "node:fs";
import * as aiCompatible from "@ai-sdk/openai-compatible";
import * as ai from "ai";
import * as ai5 from "ai5";
import * as ai6 from "ai6";
import OpenAI from "openai";
import * as aiCompatible5 from "openai-compatible5";
import * as aiCompatible6 from "openai-compatible6";
import OpenAI4 from "openai4";
import OpenAI5 from "openai5";
import OpenAI6 from "openai6";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { conformance, PAGE, RESULTS, type Tried } from "../../docs/_conformance.ts";
import manifest from "../../package.json" with { type: "json" };
import { endOfFile } from "../kit/clean.ts";
import { aiChecks, compatible, type AiSdk, type Compatible } from "../kit/clients/ai.ts";
import { anthropicChecks } from "../kit/clients/anthropic.ts";
import { FEATURES, startCases, type Case, type Check, type Client, type Feature } from "../kit/clients/case.ts";
import { eventsourceChecks } from "../kit/clients/eventsource.ts";
import { langchainChecks } from "../kit/clients/langchain.ts";
import { openaiToAnthropicChecks } from "../kit/clients/openai-to-anthropic.ts";
import { openaiChecks, type OpenaiSdk } from "../kit/clients/openai.ts";
import { openrouterChecks } from "../kit/clients/openrouter.ts";
import { plainChecks } from "../kit/clients/plain.ts";
import { curl, python, undici } from "../kit/clients/programs.ts";
import { anthropicSpeaker, openaiSpeaker } from "../kit/clients/speaker.ts";
import { wsChecks } from "../kit/clients/ws.ts";

// The older versions differ from the newest in types that no check is about.
const openaiSdk = (sdk: unknown): OpenaiSdk => sdk as OpenaiSdk;
const aiSdk = (sdk: unknown, { createOpenAICompatible }: { createOpenAICompatible: unknown }) =>
  aiChecks(sdk as AiSdk, compatible(createOpenAICompatible as Compatible));

const CLIENTS: Record<string, Client> = {
  "openai 4": { package: "openai4", checks: openaiChecks(openaiSdk(OpenAI4)) },
  "openai 5": { package: "openai5", checks: openaiChecks(openaiSdk(OpenAI5)) },
  "openai 6": { package: "openai6", checks: openaiChecks(openaiSdk(OpenAI6)) },
  "openai 7": { package: "openai", checks: openaiChecks(OpenAI) },
  "openai 7 to Anthropic": { package: "openai", checks: openaiToAnthropicChecks(OpenAI) },
  "ai 5": { package: "ai5", checks: aiSdk(ai5, aiCompatible5) },
  "ai 6": { package: "ai6", checks: aiSdk(ai6, aiCompatible6) },
  "ai 7": { package: "ai", checks: aiSdk(ai, aiCompatible) },
  "OpenRouter for ai 7": { package: "@openrouter/ai-sdk-provider", checks: openrouterChecks(ai) },
  anthropic: { package: "@anthropic-ai/sdk", checks: anthropicChecks(anthropicSpeaker) },
  "anthropic to OpenAI": { package: "@anthropic-ai/sdk", checks: anthropicChecks(openaiSpeaker) },
  langchain: { package: "@langchain/openai", checks: langchainChecks },
  undici: { package: "undici", checks: plainChecks(undici) },
  eventsource: { package: "eventsource", checks: eventsourceChecks },
  ws: { package: "ws", checks: wsChecks },
  curl: { checks: plainChecks(curl) },
  "python urllib": { checks: plainChecks(python) },
};

/** `npm run conformance` */
const writes = process.env["AIMO_CONFORMANCE"] !== undefined;
const cleanup = endOfFile();
let open: () => Case;
beforeAll(async () => {
  open = await startCases(cleanup);
});

/** What the run has to show for it, as far as it has passed. */
const results = tried(() => "failed");

for (const [at, [client, { checks }]] of Object.entries(CLIENTS).entries())
  describe.concurrent(client, () => {
    for (const [feature, title] of Object.entries(FEATURES) as [Feature, string][]) {
      const check = checks[feature];
      const why = typeof check === "string" ? ` (${check})` : "";
      it.skipIf(why)(`${client}: ${title}${why}`, async () => {
        await (check as Check)(open());
        Object.assign(results[at]?.results ?? {}, { [title]: true });
      });
    }
  });

function tried(of: () => true | string): Tried[] {
  const versions: Record<string, string> = manifest.devDependencies;
  return Object.entries(CLIENTS).map(([client, { package: name = "", checks }]) => {
    const [, alias, version] = /^npm:(.+)@(.+)$/.exec(versions[name] ?? "") ?? [undefined, name, versions[name]];
    const cells = (Object.entries(FEATURES) as [Feature, string][]).map(([feature, title]) => {
      const check = checks[feature];
      return [title, typeof check === "string" ? check : of()] as const;
    });
    return {
      client,
      package: version === undefined ? undefined : `\`${alias}\` ${version}`,
      results: Object.fromEntries(cells),
    };
  });
}

afterAll(() => {
  if (writes) writeFileSync(RESULTS, JSON.stringify(results));
});

it.skipIf(writes)("docs/conformance.md has these clients and features, and no others", () => {
  expect(readFileSync(PAGE, "utf8"), "run `npm run conformance`").toBe(conformance(tried(() => true)));
});
