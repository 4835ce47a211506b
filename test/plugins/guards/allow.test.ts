import { describe, expect, it } from "vitest";
import { AimoError, type Origin, type RequestFrame } from "../../../core/index.ts";
import { checkModels, checkTarget, mayCall } from "../../../plugins/guards/_allow.ts";
import { origin, request, target } from "../../suites/index.ts";

const bound = (...models: string[]): Origin => Object.assign(origin(), { client: "c", allowance: { models } });
const asks = (fields: Partial<RequestFrame>): RequestFrame => ({ ...request(), ...fields });
const json = (value: unknown, fields: Partial<RequestFrame> = {}): RequestFrame =>
  asks({ contentType: "application/json", body: Buffer.from(JSON.stringify(value)), ...fields });
const refused = (run: () => void, sentence: RegExp): void => {
  let thrown: unknown;
  try {
    run();
  } catch (error) {
    thrown = error;
  }
  expect(thrown).toBeInstanceOf(AimoError);
  expect(thrown).toMatchObject({ code: "FORBIDDEN", data: { param: "model" } });
  expect((thrown as AimoError).message).toMatch(sentence);
};

describe("a client that is bound to models", () => {
  it("calls those whose name fits, whole, with * for any characters", () => {
    const who = bound("llama*", "gpt-5", "*/vision");
    for (const model of ["llama3.2", "llama", "gpt-5", "a/b/vision"]) {
      expect(mayCall(who, model)).toBe(true);
      checkModels(who, json({ model }, { model }));
      checkTarget(who, target({ model: { id: model, types: ["openai.chat"] } }));
    }
    for (const model of ["gpt-5-mini", "my-llama", "vision", "", "*", "LLAMA3"]) {
      expect(mayCall(who, model)).toBe(false);
      refused(() => checkModels(who, json({ model }, { model })), /may not call the model/);
      refused(() => checkTarget(who, target({ model: { id: model, types: ["openai.chat"] } })), /may not call/);
    }
  });

  it("is refused for one of the fallbacks, which is named", () => {
    const asked = json({ model: "a" }, { model: "a", fallbacks: ["a", "dear"] });
    refused(() => checkModels(bound("a"), asked), /"dear"/);
  });

  it("calls nothing where its list is empty", () => {
    refused(() => checkModels(bound(), json({ model: "a" }, { model: "a" })), /"a"/);
  });

  it("must name its model where the provider's adapter writes over it", () => {
    const form = (boundary: string, before = ""): Partial<RequestFrame> => ({
      model: "a",
      contentType: `multipart/form-data; boundary=${boundary}`,
      body: Buffer.from(
        `${before}--${boundary}\r\ncontent-disposition: form-data; name="model"\r\n\r\ndear\r\n--${boundary}--\r\n`,
      ),
    });
    checkModels(bound("a"), asks(form("x")));
    for (const fields of Object.values<Partial<RequestFrame>>({
      "no model at all": { model: undefined as never, body: Buffer.from("{}"), contentType: "application/json" },
      "in the query alone": { model: "a", body: Buffer.from("{}"), contentType: "application/json" },
      "as text": { model: "a", body: Buffer.from('{"model":"dear"}'), contentType: "text/plain" },
      "in UTF-16": { model: "a", body: Buffer.from('{"model":"dear"}', "utf16le"), contentType: "application/json" },
      "as no string": { model: "a", body: Buffer.from('{"model":["dear"]}'), contentType: "application/json" },
      "deeper down": { model: "a", body: Buffer.from('{"x":{"model":"a"}}'), contentType: "application/json" },
      "a form that says it is JSON": form("json", '{"model":"a"}\r\n'),
      "in the path": { ...json({ model: "a" }), model: "a", endpoint: "deployments/dear/chat/completions" },
    }))
      refused(() => checkModels(bound("a"), asks(fields)), /must name its model/);
  });

  it("must name no model where a server could read another one than the adapter writes in", () => {
    // In UTF-8 its model is "a"; servers that look for UTF-16 find "dear".
    const polyglot = Buffer.concat([
      Buffer.from('{"x":"', "utf16le"),
      Buffer.from('",'),
      Buffer.from('"model":"a","'),
      Buffer.from([0x61]),
      Buffer.from('","model":"dear"}', "utf16le"),
    ]);
    expect(JSON.parse(polyglot.toString("utf16le"))).toMatchObject({ model: "dear" });
    const bodies: Record<string, Partial<RequestFrame>> = {
      "in other letters": json({ model: "a", Model: "dear" }),
      "with a long s": json({ model: "a", "model\u017f": ["dear"] }),
      "as fallbacks of an upstream": json({ model: "a", models: ["dear"] }, { type: "http" }),
      "as Anthropic's fallbacks": json({ model: "a", models: ["dear"] }, { type: "anthropic.messages" }),
      "twice, and once as no string": asks({
        contentType: "application/json",
        body: Buffer.from('{"model":null,"model":"a"}'),
      }),
      "in UTF-16, beside one in UTF-8": asks({ contentType: "application/json", body: polyglot }),
      "in another charset": { ...json({ model: "a" }), contentType: "application/json; charset=utf-7" },
    };
    for (const fields of Object.values(bodies))
      refused(() => checkModels(bound("a"), asks({ ...fields, model: "a" })), /must name its model/);
    // What the adapter takes out is of no account.
    checkModels(bound("a"), json({ model: "a", models: ["a"] }, { model: "a", type: "openai.chat" }));
    for (const charset of ["charset=UTF-8", 'charset="utf-8"', " charset=utf8"])
      checkModels(bound("a"), json({ model: "a" }, { model: "a", contentType: `application/json;${charset}` }));
  });

  describe("and sends a form", () => {
    const TYPE = "multipart/form-data; boundary=x";
    const model = 'content-disposition: form-data; name="model"';
    const part = (head: string, value = "dear"): string => `--x\r\n${head}\r\n\r\n${value}\r\n`;
    const form = (body: string, contentType = TYPE): RequestFrame =>
      asks({ model: "a", contentType, body: Buffer.from(body, "latin1") });

    it.each([
      ["a browser", `${part(model)}${part('content-disposition: form-data; name="file"; filename="a.wav"')}--x--\r\n`],
      ["Python", `${part('Content-Disposition: form-data; name="model"')}--x--\r\n`],
      [
        ".NET",
        `${part("Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=model")}--x--\r\n`,
      ],
      [
        "a name beyond ASCII",
        `${part(model)}${part("Content-Disposition: form-data; name=\"file\"; filename*=utf-8''%C3%A9.wav")}--x--`,
      ],
      [
        "a value that is empty",
        `${part(model)}${part('content-disposition: form-data; name="language"', "")}--x--\r\n`,
      ],
    ])("is understood as %s writes it", (_, body) => checkModels(bound("a"), form(body)));

    it("is understood as fetch writes it", async () => {
      const data = new FormData();
      data.set("file", new File([Buffer.from([0, 13, 10, 45, 45])], 'a "b".wav', { type: "audio/wav" }));
      data.set("model", "a");
      const sent = new Response(data);
      const contentType = sent.headers.get("content-type") ?? "";
      checkModels(bound("a"), asks({ model: "a", contentType, body: new Uint8Array(await sent.arrayBuffer()) }));
    });

    it.each([
      ["of two boundaries", `${part(model)}--x--\r\n`, `${TYPE}; boundary=y`],
      [
        "with a name in another charset",
        `${part(model)}${part("content-disposition: form-data; name*=utf-8''model")}--x--`,
      ],
      ["with a blank before the sign", `${part(model)}${part('content-disposition: form-data; name ="model"')}--x--`],
      ["with two names", `${part(model)}${part('content-disposition: form-data; name="x"; name="model"')}--x--`],
      ["with a file in a parameter", `${part(model)}${part(`${model}; x="; filename=a"`)}--x--`],
      [
        "with two heads for one part",
        `${part(model)}${part(`content-disposition: form-data; name="x"\r\n${model}`)}--x--`,
      ],
      [
        "with a head that goes on in the next line",
        `${part(model)}${part('content-disposition: form-data;\r\n name="model"')}--x--`,
      ],
      ["with a head that is too long", `${part(model)}${part(`x: ${"x".repeat(9_000)}\r\n${model}`)}--x--`],
      ["in other letters", `${part(model)}${part('content-disposition: form-data; name="Model"')}--x--`],
      ["with a file for a model", `${part(model)}${part(`${model}; filename="a"`)}--x--`],
      ["with lines that end in another way", `${part(model)}${part(model).replaceAll("\r\n", "\n")}--x--`],
      [
        "with a boundary within a value",
        part(model, "a\n--x\ncontent-disposition: form-data; name=model\n\ndear") + "--x--",
      ],
      ["with something before it", `x\r\n${part(model)}--x--`],
      ["with something behind it", `${part(model)}--x--\r\n${part(model)}--x--`],
      ["without its end", part(model)],
      ["that names none", `${part('content-disposition: form-data; name="x"')}--x--`],
    ])("may not send one %s", (_, body, contentType = TYPE) =>
      refused(() => checkModels(bound("a"), form(body, contentType)), /must name its model/),
    );
  });

  it("may keep files at a provider, under no other path", () => {
    const files = (endpoint: string): RequestFrame => {
      const { model: _, ...rest } = asks({ type: "openai.files", endpoint, body: Buffer.alloc(0) });
      return rest;
    };
    for (const path of ["files", "files?limit=3", "files/f-1", "files/f-1/content"])
      checkModels(bound("a"), files(path));
    for (const path of ["files/../chat/completions", "chat/completions", "files/f-1/x"])
      refused(() => checkModels(bound("a"), files(path)), /must name its model/);
  });
});

it("a client that is not bound may ask for anything", () => {
  for (const who of [origin(), Object.assign(origin(), { allowance: { priority: "low" } })] as Origin[]) {
    checkModels(who, asks({ model: "dear", contentType: "text/plain" }));
    checkTarget(who, target({ model: { id: "dear", types: ["openai.chat"] } }));
    expect(mayCall(who, "dear")).toBe(true);
  }
});
