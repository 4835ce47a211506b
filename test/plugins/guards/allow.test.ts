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
