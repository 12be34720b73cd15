"use strict";
// Data arrive as scripts, because a browser lets a page from a disk read no other files. Each script calls
// receive(key, data) with its own path as key. Arrays are little-endian numbers, compressed by zlib, in base64.
const received = new Map();
const loading = new Map();

function receive(key, data) {
  received.set(key, data);
}

/** Return a promise of the data of a script. */
function load(key) {
  if (!loading.has(key)) {
    loading.set(key, new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `${key}.js`;
      script.onload = () => {
        script.remove();
        loading.delete(key);
        if (received.has(key)) resolve(received.get(key));
        else reject(new Error(`${key}.js does not hold what its name promises. Export the page again.`));
        received.delete(key);
      };
      script.onerror = () => {
        loading.delete(key);
        reject(new Error(`${key}.js is missing. Copy the whole folder, or export the page again.`));
      };
      document.head.append(script);
    }));
  }
  return loading.get(key);
}

function bytes(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text), out = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) out[i] = letters.charCodeAt(i);
  return out;
}

/** Return a promise of the buffer of a compressed array. */
function unpack(text) {
  const stream = new Response(bytes(text)).body.pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

/** Return a promise of a grey image, with its values as they are stored. */
function unpackImage(text) {
  const how = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  return createImageBitmap(new Blob([bytes(text)], { type: "image/jpeg" }), how);
}
