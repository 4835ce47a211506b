import type { Headers } from "../../core/frame.ts";

/** OpenAI's clients send a Bearer token, Anthropic's `x-api-key`. */
export function sentKey({ authorization = "", "x-api-key": apiKey = "" }: Readonly<Headers>): string | undefined {
  const bearer = /^bearer +(\S+) *$/i.exec(authorization)?.[1];
  return bearer ?? (apiKey.trim() || undefined);
}
