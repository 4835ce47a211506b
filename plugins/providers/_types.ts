/** What a model that chats answers. */
const CHAT = ["openai.chat", "openai.completions", "openai.responses"];

/** By their names: no server's list says what a model does. */
const KINDS: readonly (readonly [RegExp, readonly string[]])[] = [
  [/embed|minilm|(^|[-_/.])(bge|e5|gte)([-_.]|$)/i, ["openai.embeddings"]],
  [/whisper|transcribe/i, ["openai.audio.transcriptions", "openai.audio.translations"]],
  [/(^|[-_/.])tts([-_.:]|$)|kokoro|xtts/i, ["openai.audio.speech"]],
  [
    /dall-e|gpt-image|stable-?diffusion|(^|[-_/.])(sdxl|sd3|flux)([-_.:]|$)/i,
    ["openai.images.generations", "openai.images.edits", "openai.images.variations"],
  ],
  [/(^|[-_/.])moderation/i, ["openai.moderations"]],
];

/**
 * What a model of this name answers, as far as names tell, and anything else by `endpoint`. The files are the provider's
 * and not a model's: the first model stands for them.
 */
export function typesOf(id: string, index: number): readonly string[] {
  const [, types] = KINDS.find(([pattern]) => pattern.test(id)) ?? [undefined, CHAT];
  return [...types, ...(index === 0 ? ["openai.files"] : []), "http"];
}
