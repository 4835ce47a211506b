import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { readProxyToml, type ProxyToml } from "../../../core/cli/proxy-toml.ts";
import { createNode } from "../../../core/index.ts";
import { createUpstream } from "../../kit/upstream.ts";
import { chat, collect } from "../../suites/index.ts";

function file(toml: string): string {
  const folder = mkdtempSync(join(tmpdir(), "aimo-test-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, "proxy.toml");
  writeFileSync(path, toml);
  return path;
}

const read = (toml: string): ProxyToml => readProxyToml(file(toml));
const cards = ({ adapters }: ProxyToml): unknown[] =>
  adapters.flatMap(({ name, provider }) => provider?.models.map((card) => ({ at: name, ...card, types: undefined })));

const ROUTER = '[router]\nurl = "https://devnet.aimo.network"\napi_key = "aimo-sk-dev-x"\n';
const model = (name: string, more = "", params = ""): string =>
  `[[models]]\nname = "${name}"\ndisplay_name = "D"\nprovider_name = "P"\n${more}\n[models.params]\n${params || `model = "${name}"\napi_base = "http://127.0.0.1:1/v1"`}\n`;

describe("the second form", () => {
  it("becomes model cards, with prices per token instead of per million", () => {
    const pricing = "[models.pricing]\nprompt = 0.15\ncompletion = 1.25\nimage = 0.003";
    const more = `context_length = 8192\ninput_modalities = ["text", "image"]\noutput_modalities = ["text"]\n${pricing}`;
    expect(cards(read(ROUTER + model("gpt", more)))).toEqual([
      {
        at: "provider-openai:127.0.0.1-1",
        id: "gpt",
        name: "D",
        "x-provider-name": "P",
        contextLength: 8_192,
        modalities: { input: ["text", "image"], output: ["text"] },
        pricing: { prompt: "0.00000015", completion: "0.00000125", image: "0.003" },
      },
    ]);
  });

  it.each([
    ["0", "0"],
    ["2", "0.000002"],
    ["0.1", "0.0000001"],
    ["0.000001", "0.000000000001"],
    ["1e-7", "0.0000000000001"],
    ["1234567.5", "1.2345675"],
    ["3000000", "3"],
    ['"0.30"', "0.0000003"],
  ])("US$ %s for a million tokens is %s for one", (given, expected) => {
    const toml = model("m", `[models.pricing]\nprompt = ${given}\ncompletion = 0`);
    expect(cards(read(toml))).toMatchObject([{ pricing: { prompt: expected, completion: "0" } }]);
  });

  it("has one adapter for each upstream and key", () => {
    const at = (base: string, key: string): string => `api_base = "${base}"\napi_key = "${key}"`;
    const toml = [
      model("a", "", at("https://one.example/v1", "k1")),
      model("b", "", at("https://one.example/v1", "k1")),
      model("c", "", at("https://one.example/v1", "k2")),
      model("d", "", at("https://two.example:8443/v1", "k1")),
    ].join("");
    const { adapters } = read(toml);
    expect(adapters.map(({ name, provider }) => [name, provider?.models.map(({ id }) => id)])).toEqual([
      ["provider-openai:one.example", ["a", "b"]],
      ["provider-openai:one.example-2", ["c"]],
      ["provider-openai:two.example-8443", ["d"]],
    ]);
    expect(JSON.stringify(adapters.map(({ options }) => options))).not.toMatch(/"k[12]"/);
  });

  it("offers a model under its own name, and asks the upstream by that of the upstream, at the price of the card", async () => {
    const upstream = await createUpstream();
    const pricing = "[models.pricing]\nprompt = 1\ncompletion = 1";
    const { adapters } = read(
      model("mine", pricing, `model = "theirs"\napi_base = "${upstream.url}"\napi_key = "sk-up"`),
    );
    await using node = await createNode({ plugins: [...adapters] });
    const body = { model: "mine", messages: [], x: 1 };
    const { outcome, text } = await collect(node, { ...chat("mine"), body: Buffer.from(JSON.stringify(body)) });
    expect(outcome.status).toBe("ok");
    const asked = await upstream.request(0);
    expect(JSON.parse(asked.body.toString())).toEqual({ ...body, model: "theirs" });
    expect(asked.headers.authorization).toBe("Bearer sk-up");
    expect(JSON.parse(text)).toMatchObject({ usage: { cost: 0.000003 } });
    expect([...node.targets].map((target) => target.model.id)).toEqual(["mine"]);
  });

  it("reads what begins with std::env:: from the environment, and says what is missing", () => {
    vi.stubEnv("PROXY_TEST_KEY", "sk-from-env");
    onTestFinished(() => void vi.unstubAllEnvs());
    const toml = (name: string): string =>
      model("m", "", `api_base = "http://127.0.0.1:1/v1"\napi_key = "std::env::${name}"`);
    const marked = (given: string): unknown => read(given).adapters[0]?.options;
    const plain = model("m", "", 'api_base = "http://127.0.0.1:1/v1"\napi_key = "sk-from-env"');
    expect(marked(toml("PROXY_TEST_KEY"))).toEqual(marked(plain));
    expect(() => read(toml("PROXY_TEST_NONE"))).toThrow(
      /proxy\.toml: models\.0\.params\.api_key is to be read from PROXY_TEST_NONE, which is not set/,
    );
  });
});

describe("the first form", () => {
  const endpoint = '[endpoint]\nurl = "http://127.0.0.1:1/v1/chat/completions"\n"api-key" = "sk-up"\n';

  it("serves the models of its metadata at the URL without the route, and says that its prices do not count", () => {
    const metadata = `[metadata]\nid = "x"\nname = "N"\ncategory = "completion_model"\n[[metadata.models]]\nname = "a"\n[[metadata.models.pricing]]\ntoken_mint = "T"\ninput_price = 1\noutput_price = 2\n`;
    const found = read(`[router]\nurl = "/ip4/127.0.0.1/tcp/1"\n"api-key" = "k"\n${endpoint}${metadata}`);
    expect(cards(found)).toEqual([{ at: "provider-openai:127.0.0.1-1", id: "a" }]);
    expect(found.adapters[0]?.options).toMatchObject({ url: "http://127.0.0.1:1/v1" });
    expect(found.router).toBe("/ip4/127.0.0.1/tcp/1");
    expect(found.notes).toEqual([expect.stringContaining("prices of [metadata]")]);
  });

  it("serves what the upstream lists, where it names no models", () => {
    const { adapters, notes } = read(endpoint);
    expect(adapters).toMatchObject([{ options: { url: "http://127.0.0.1:1/v1", models: undefined } }]);
    expect(notes).toEqual([]);
  });
});

describe("the third form", () => {
  const third =
    '[router]\nurl = "https://beta.aimo.network"\n[auth]\nkeypair_file = "id.json"\n[mcp]\nenabled = true\n';

  it("gives its router, and says what does not count", () => {
    const { router, notes } = read(third + model("m"));
    expect(router).toBe("https://beta.aimo.network");
    expect(notes).toEqual([expect.stringContaining("[mcp]")]);
  });

  it("alone names nothing to serve", () => {
    expect(() => read(third)).toThrow(/neither \[\[models\]\] nor \[endpoint\]/);
  });
});

describe("what is wrong is refused with file and field", () => {
  it.each([
    [
      "a field that there is not",
      model("m", "contxt_length = 5"),
      /models\.0\.contxt_length.*Did you mean "context_length"/,
    ],
    ["a table that there is not", "[routr]\nurl = 5", /there is no option "routr"/],
    ["a price that is none", model("m", "[models.pricing]\nprompt = -1\ncompletion = 0"), /models\.0\.pricing\.prompt/],
    ["no upstream", model("m", "", 'model = "x"'), /models\.0\.params\.api_base/],
    ["nothing", "", /neither/],
  ])("%s", (_, toml, why) => {
    expect(() => read(toml)).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
    expect(() => read(toml)).toThrow(why);
  });

  it("a syntax error, with its place and without the line, which may hold a key", () => {
    const wrong = (): unknown => read('[router]\napi_key = "sk-secret');
    expect(wrong).toThrow(/proxy\.toml:2:\d+: /);
    expect(wrong).not.toThrow(/sk-secret/);
  });

  it("a file that is not there", () => {
    expect(() => readProxyToml("/nowhere/proxy.toml")).toThrow("Cannot read /nowhere/proxy.toml: it is not there.");
  });
});
