/** Changes a message the way a broken or hostile peer would; always another array. */
export function mutate(bytes: Uint8Array, random: () => number, others: readonly Uint8Array[]): Uint8Array {
  let next = Uint8Array.from(bytes);
  const below = (n: number): number => Math.floor(random() * n);
  for (let times = 1 + below(3); times > 0; times--) {
    const at = below(Math.max(1, next.length));
    switch (below(9)) {
      case 0: // one bit
        next[at] = (next[at] ?? 0) ^ (1 << below(8));
        break;
      case 1: // one byte
        next[at] = below(256);
        break;
      case 2: // a byte that means something: ends of ranges, CBOR's breaks and lengths
        next[at] = [0x00, 0x01, 0x7f, 0x80, 0x9f, 0xbf, 0xf6, 0xf7, 0xfb, 0xff][below(10)] as number;
        break;
      case 3: // cut short
        next = next.slice(0, at);
        break;
      case 4: // a piece left out
        next = joined(next.subarray(0, at), next.subarray(at + 1 + below(8)));
        break;
      case 5: // a piece twice
        next = joined(next.subarray(0, at), next.subarray(Math.max(0, at - 1 - below(16))));
        break;
      case 6: // bytes put in
        next = joined(
          next.subarray(0, at),
          Uint8Array.from({ length: 1 + below(8) }, () => below(256)),
          next.subarray(at),
        );
        break;
      case 7: {
        // the head of one, the body of another
        const other = others[below(others.length)] as Uint8Array;
        next = joined(next.subarray(0, Math.min(at, 12)), other.subarray(Math.min(at, 12)));
        break;
      }
      default: // type, flags, call or offset
        for (let header = below(12); header < 12; header++) next[header] = below(256);
        if (below(2) === 0) next[0] = 1 + below(17);
    }
  }
  return next;
}

function joined(...parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(Buffer.concat(parts));
}
