export { createVirtualRuntime, settle, type VirtualRuntime } from "../suites/virtual-runtime.ts";
