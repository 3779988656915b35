// Messages as lab/live/wire.py encodes them: header length, JSON header, arrays aligned to eight bytes.
const TYPES = { uint8: Uint8Array, float32: Float32Array, int32: Int32Array };

export function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  for (const place of header.arrays) {
    const count = place.shape.reduce((a, b) => a * b, 1);
    arrays[place.name] = { data: new TYPES[place.dtype](buffer, 4 + length + place.offset, count), shape: place.shape };
  }
  return [header, arrays];
}

// Connects again and again; tells what came and how the connection is.
export class Link {
  constructor(onMessage, onState) {
    this.onMessage = onMessage;
    this.onState = onState;
    this.connect();
  }

  connect() {
    const token = new URLSearchParams(location.search).get("token") ?? "";
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/socket?token=${encodeURIComponent(token)}`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.onState(true);
    this.socket.onmessage = (event) => this.onMessage(...decode(event.data));
    this.socket.onclose = () => {
      this.onState(false);
      setTimeout(() => this.connect(), 1000);
    };
  }

  send(command) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(command));
  }
}
