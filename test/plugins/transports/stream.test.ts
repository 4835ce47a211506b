import { libp2p, stream } from "../../../plugins/transports/index.ts";
import { testTransport } from "../../suites/transport.ts";

const listen = ["/ip4/127.0.0.1/tcp/0"];

testTransport(() => ({
  left: () => [libp2p({ listen }), stream()],
  right: (left) => [libp2p({ join: [left.use("libp2p").addresses[0] as string] }), stream()],
}));
