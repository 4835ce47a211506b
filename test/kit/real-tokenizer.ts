// Arithmetic on arrays whose lengths the file's head gives.
/* oxlint-disable typescript/no-non-null-assertion */
export interface Tokenizer {
  /** `begins`: a text that nothing stands before, as the model learned them: its mark, and a space. */
  encode(text: string, begins?: boolean): number[];
  /** Puts together what a stream of tokens says; a character may come with the last of several tokens. */
  decoder(): (token: number) => string;
  /** Stands before a text. */
  readonly begin: number;
  /** Stands behind it. */
  readonly end: number;
}

/** Bytes that have no piece of their own are the tokens from here on. */
const BYTES = 3;

/** SentencePiece's BPE in the format of llama2.c: the longest length, then for each piece its score, length and text. */
export function createTokenizer(file: Buffer, vocabulary: number): Tokenizer {
  const ids = new Map<string, number>();
  const pieces: string[] = [];
  const scores: number[] = [];
  for (let at = 4; pieces.length < vocabulary;) {
    const length = file.readInt32LE(at + 4);
    const piece = file.toString("utf8", at + 8, at + 8 + length);
    ids.set(piece, pieces.length);
    scores.push(file.readFloatLE(at));
    pieces.push(piece);
    at += 8 + length;
  }

  /** Of all neighbours that make a piece together, those with the best score are joined first. */
  function merge(tokens: number[]): number[] {
    for (;;) {
      let best: { at: number; id: number } | undefined;
      for (let at = 0; at + 1 < tokens.length; at++) {
        const id = ids.get(pieces[tokens[at]!]! + pieces[tokens[at + 1]!]!);
        if (id !== undefined && (best === undefined || scores[id]! > scores[best.id]!)) best = { at, id };
      }
      if (best === undefined) return tokens;
      tokens.splice(best.at, 2, best.id);
    }
  }

  return {
    begin: 1,
    end: 2,
    encode(text, begins = true) {
      const characters = [...(begins && text !== "" ? ` ${text}` : text)];
      const tokens = merge(
        characters.flatMap(
          (character) => ids.get(character) ?? [...Buffer.from(character)].map((byte) => byte + BYTES),
        ),
      );
      return begins ? [1, ...tokens] : tokens;
    },
    decoder() {
      const utf8 = new TextDecoder();
      return (token) => {
        const piece = pieces[token] ?? "";
        const [, hex] = /^<0x([0-9A-F]{2})>$/.exec(piece) ?? [];
        return utf8.decode(hex === undefined ? Buffer.from(piece) : Uint8Array.of(Number.parseInt(hex, 16)), {
          stream: true,
        });
      };
    },
  };
}
