import { describe, expect, it } from "vitest";
import { AimoError } from "../../core/index.ts";
import { fromFrame, isErrorCode, toFrame } from "../../core/error.ts";

describe("an AimoError", () => {
  it("takes status and retryable from its code, unless it is told otherwise", () => {
    expect(new AimoError("NO_PROVIDER", "x")).toMatchObject({ status: 503, retryable: true });
    expect(new AimoError("UPSTREAM_FAILED", "x", { status: 418, retryable: false })).toMatchObject({
      status: 418,
      retryable: false,
    });
  });

  it("renders as OpenAI's error object", () => {
    expect(JSON.parse(JSON.stringify(new AimoError("MODEL_NOT_FOUND", "No such model.", { param: "model" })))).toEqual({
      error: { message: "No such model.", type: "invalid_request_error", code: "model_not_found", param: "model" },
    });
    expect(new AimoError("OVERLOADED", "x").toJSON().error.param).toBeNull();
  });

  it("shows neither its cause nor its detail to clients", () => {
    const error = new AimoError("INTERNAL", "It failed.", { cause: new Error("a secret"), detail: "another secret" });
    expect(error.cause).toBeInstanceOf(Error);
    expect(error.data).not.toHaveProperty("cause");
    expect(JSON.stringify(error)).not.toContain("secret");
  });

  it("is known by name and code, also from another copy of the package", () => {
    const other = Object.assign(new Error("x"), { name: "AimoError", code: "FORBIDDEN" });
    expect(AimoError.is(other)).toBe(true);
    expect(AimoError.is(Object.assign(new Error("x"), { name: "AimoError", code: "MADE_UP" }))).toBe(false);
    expect(AimoError.is({ name: "AimoError", code: "FORBIDDEN" })).toBe(false);
    expect(AimoError.is(undefined)).toBe(false);
  });

  it("is made of whatever was thrown", () => {
    const known = new AimoError("FORBIDDEN", "x");
    expect(AimoError.from(known)).toBe(known);
    for (const thrown of [new Error("broken"), "broken"])
      expect(AimoError.from(thrown)).toMatchObject({ code: "INTERNAL", cause: thrown });
    for (const thrown of [undefined, null, 42, {}]) expect(AimoError.from(thrown).code).toBe("INTERNAL");
  });

  it("tells the log what and where it was, but not the message, which may quote a prompt", () => {
    const { detail } = AimoError.from(new TypeError("my prompt")).data;
    expect(detail).toMatch(/^TypeError at .*error\.test\.ts:\d+/);
    expect(AimoError.from(Object.assign(new Error("x"), { code: "ECONNREFUSED" })).data.detail).toContain(
      "ECONNREFUSED",
    );
    expect(AimoError.from("my prompt").data.detail).toBe("a string was thrown");
  });

  it("crosses as a frame and comes back", () => {
    const error = new AimoError("RATE_LIMIT_EXCEEDED", "Later.", { retryAfter: 5_000, status: 420 });
    const back = fromFrame(toFrame(error, "id"));
    expect(back).toMatchObject({ code: "RATE_LIMIT_EXCEEDED", message: "Later.", status: 420, retryable: true });
    expect(back.data.retryAfter).toBe(5_000);
    expect(toFrame(error, "id").requestId).toBe("id");
    expect(toFrame(error)).not.toHaveProperty("requestId");
  });
});

it("codes are those of the table, and nothing that every object has", () => {
  expect(isErrorCode("INTERNAL")).toBe(true);
  for (const code of ["toString", "__proto__", "constructor", "", 42, undefined]) expect(isErrorCode(code)).toBe(false);
});
