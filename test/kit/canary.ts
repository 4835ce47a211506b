/** What tests put into prompts, replies and keys: none of it may be seen outside of the call that it belongs to. */
export const PROMPT = "canary-prompt";
export const REPLY = "canary-reply";
export const KEY = "canary-key";

/** Shorter ones are words that occur anyway. */
const SHORTEST = 8;

/** Where one of the canaries, or of these secrets, is in a text: what is around it. */
export function leaks(
  text: string,
  secrets: readonly (string | undefined)[] = [],
  among = [PROMPT, REPLY, KEY],
): string[] {
  const words = [...among, ...secrets.filter((each) => each !== undefined && each.length >= SHORTEST)] as string[];
  return words.flatMap((word) =>
    [word, Buffer.from(word).toString("hex"), encodeURIComponent(word)].flatMap((form) => {
      const at = text.indexOf(form);
      return at < 0 ? [] : [text.slice(Math.max(0, at - 100), at + form.length + 60)];
    }),
  );
}
