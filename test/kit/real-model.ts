// Arithmetic on arrays whose lengths the file's head gives.
/* oxlint-disable typescript/no-non-null-assertion */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createTokenizer, type Tokenizer } from "./real-tokenizer.ts";

/** Where a real language model lies that is small enough for a test; none of it is part of this repository. */
export const MODELS = process.env["AIMO_MODELS"] ?? fileURLToPath(new URL("../../../shared/models", import.meta.url));

const LLAMA: string = "node-llama-cpp";

/** Why tests that need this file cannot run; undefined when they can. Told on stderr, for a skipped test says nothing. */
export function missing(file: string): string | undefined {
  return existsSync(join(MODELS, file)) ? undefined : skipped(`there is no ${file} in ${MODELS} (AIMO_MODELS)`);
}

/** The same for those that need llama.cpp too. */
export async function missingLlama(): Promise<string | undefined> {
  return (await hasLlama()) ? missing("stories260K.gguf") : skipped(`the package ${LLAMA} is not installed`);
}

export function hasLlama(): Promise<boolean> {
  return import(LLAMA).then(
    () => true,
    () => false,
  );
}

function skipped(why: string): string {
  console.warn(`skipped: ${why}`);
  return why;
}

/** A transformer of the llama kind, on plain arrays. */
export interface RealModel {
  readonly tokenizer: Tokenizer;
  /** Tokens that a text may have, prompt and answer together. */
  readonly context: number;
  /** A text that begins: give it its tokens one by one, and it says of each how likely every token is to come next. */
  begin(): (token: number) => Float32Array;
}

/** Weights in the format of llama2.c: seven int32, then float32 matrices, one after the other. */
export function loadModel(folder = MODELS): RealModel {
  const file = readFileSync(join(folder, "stories260K.bin"));
  const bytes = file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
  const [dim = 0, hidden = 0, layers = 0, heads = 0, kvHeads = 0, vocabulary = 0, context = 0] = new Int32Array(
    bytes,
    0,
    7,
  );
  const size = dim / heads;
  const kvDim = size * kvHeads;
  let at = 28;
  const take = (length: number): Float32Array => new Float32Array(bytes, (at += length * 4) - length * 4, length);
  const perLayer = (length: number): Float32Array[] => Array.from({ length: layers }, () => take(length));
  const embedding = take(vocabulary * dim);
  const attentionNorm = perLayer(dim);
  const wq = perLayer(dim * dim);
  const wk = perLayer(dim * kvDim);
  const wv = perLayer(dim * kvDim);
  const wo = perLayer(dim * dim);
  const feedNorm = perLayer(dim);
  const w1 = perLayer(dim * hidden);
  const w2 = perLayer(hidden * dim);
  const w3 = perLayer(dim * hidden);
  const finalNorm = take(dim);

  function begin(): (token: number) => Float32Array {
    const keys = perLayerOf(layers, context * kvDim);
    const values = perLayerOf(layers, context * kvDim);
    const x = new Float32Array(dim);
    const normed = new Float32Array(dim);
    const q = new Float32Array(dim);
    const mixed = new Float32Array(dim);
    const back = new Float32Array(dim);
    const gate = new Float32Array(hidden);
    const up = new Float32Array(hidden);
    const scores = new Float32Array(context);
    const logits = new Float32Array(vocabulary);
    let position = 0;

    /** Each head looks back at all positions so far; `heads / kvHeads` of them share keys and values. */
    function attend(layer: number): void {
      const k = keys[layer]!;
      const v = values[layer]!;
      mixed.fill(0);
      for (let head = 0; head < heads; head++) {
        const from = head * size;
        const shared = Math.floor((head * kvHeads) / heads) * size;
        const past = scores.subarray(0, position + 1);
        for (let t = 0; t <= position; t++) {
          let sum = 0;
          for (let i = 0; i < size; i++) sum += q[from + i]! * k[t * kvDim + shared + i]!;
          past[t] = sum / Math.sqrt(size);
        }
        softmax(past);
        for (let t = 0; t <= position; t++)
          for (let i = 0; i < size; i++) mixed[from + i]! += past[t]! * v[t * kvDim + shared + i]!;
      }
    }

    return (token) => {
      if (position >= context) throw new RangeError("The context is full.");
      x.set(embedding.subarray(token * dim, (token + 1) * dim));
      for (let layer = 0; layer < layers; layer++) {
        const k = keys[layer]!.subarray(position * kvDim, (position + 1) * kvDim);
        const v = values[layer]!.subarray(position * kvDim, (position + 1) * kvDim);
        norm(normed, x, attentionNorm[layer]!);
        multiply(q, wq[layer]!, normed);
        multiply(k, wk[layer]!, normed);
        multiply(v, wv[layer]!, normed);
        rotate(q, position, size);
        rotate(k, position, size);
        attend(layer);
        multiply(back, wo[layer]!, mixed);
        add(x, back);
        norm(normed, x, feedNorm[layer]!);
        multiply(gate, w1[layer]!, normed);
        multiply(up, w3[layer]!, normed);
        for (let i = 0; i < hidden; i++) gate[i]! *= up[i]! / (1 + Math.exp(-gate[i]!));
        multiply(back, w2[layer]!, gate);
        add(x, back);
      }
      position++;
      norm(normed, x, finalNorm);
      multiply(logits, embedding, normed);
      return logits;
    };
  }

  return { tokenizer: createTokenizer(readFileSync(join(folder, "tok512.bin")), vocabulary), context, begin };
}

export interface Sampling {
  /** 0: always the likeliest. */
  readonly temperature: number;
  /** Only the likeliest that together have this probability. */
  readonly topP: number;
  /** 0 … 1 */
  readonly random: () => number;
}

/** One token of those that `logits` tell about, which it may change. */
export function sample(logits: Float32Array, { temperature, topP, random }: Sampling): number {
  if (temperature === 0) return logits.indexOf(Math.max(...logits));
  for (let i = 0; i < logits.length; i++) logits[i]! /= temperature;
  softmax(logits);
  const order = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!);
  const kept: number[] = [];
  let mass = 0;
  for (const token of order) {
    kept.push(token);
    mass += logits[token]!;
    if (mass >= topP) break;
  }
  let left = random() * mass;
  return kept.find((token) => (left -= logits[token]!) < 0) ?? kept[0]!;
}

function perLayerOf(layers: number, length: number): Float32Array[] {
  return Array.from({ length: layers }, () => new Float32Array(length));
}

/** RMSNorm. */
function norm(out: Float32Array, x: Float32Array, weight: Float32Array): void {
  let sum = 0;
  for (const value of x) sum += value * value;
  const scale = 1 / Math.sqrt(sum / x.length + 1e-5);
  for (let i = 0; i < x.length; i++) out[i] = weight[i]! * x[i]! * scale;
}

/** `weight` has a row for each value of `out`. */
function multiply(out: Float32Array, weight: Float32Array, x: Float32Array): void {
  for (let row = 0, at = 0; row < out.length; row++) {
    let sum = 0;
    for (let i = 0; i < x.length; i++) sum += weight[at++]! * x[i]!;
    out[row] = sum;
  }
}

/** RoPE: each pair of a head turns with the position, later pairs more slowly. */
function rotate(x: Float32Array, position: number, size: number): void {
  for (let i = 0; i < x.length; i += 2) {
    const angle = position / 10_000 ** ((i % size) / size);
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    const [a, b] = [x[i]!, x[i + 1]!];
    x[i] = a * cos - b * sin;
    x[i + 1] = a * sin + b * cos;
  }
}

function softmax(x: Float32Array): void {
  const most = Math.max(...x);
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] = Math.exp(x[i]! - most);
  for (let i = 0; i < x.length; i++) x[i]! /= sum;
}

function add(x: Float32Array, y: Float32Array): void {
  for (let i = 0; i < x.length; i++) x[i]! += y[i]!;
}
