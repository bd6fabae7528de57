// Closed-loop load on the endpoint by k6: each virtual user sends its next request when the last one is answered.
//
//     k6 run --out json=k6.json -e CLIENTS=4 -e DURATION=60s scripts/load/k6.js
//     python scripts/import_load.py k6.json --out capacity.jsonl
//
// Settings (-e NAME=value): HOST, CLIENTS, DURATION, PROMPT, FIELDS (a JSON object: more fields of each request),
// SUMMARY (a file for k6's own summary). k6.json has a line per measured value, with the client's number as a tag;
// after each request diffsweep_images says how many images its reply holds, and diffsweep_failed whether there is none;
// diffsweep_complete, written last, says that nothing is cut off. What to know of k6's own figures:
// http_req_duration leaves out the wait for a connection (http_req_blocked); http_reqs' rate divides by the whole
// run, the end with ever fewer clients included; http_req_failed counts failures under "passes", and a reply of garbage
// with status 200 as none; p(99) is there only when summaryTrendStats asks for it; an iteration that gracefulStop
// breaks off is in none of them.
import http from 'k6/http';
import { Counter, Rate } from 'k6/metrics';

const images = new Counter('diffsweep_images');
const failed = new Rate('diffsweep_failed');
const complete = new Counter('diffsweep_complete');
const url = `${__ENV.HOST || 'http://127.0.0.1:8000'}/v1/images/generations`;
const fields = { prompt: __ENV.PROMPT || 'a large plain red circle on a blue background', ...JSON.parse(__ENV.FIELDS || '{}') };

export const options = {
  scenarios: {
    closed: {
      executor: 'constant-vus',
      vus: Number(__ENV.CLIENTS || 1),
      duration: __ENV.DURATION || '60s',
      gracefulStop: '600s',
    },
  },
  summaryTrendStats: ['avg', 'min', 'med', 'max', 'p(90)', 'p(95)', 'p(99)', 'count'],
};

export default function () {
  const body = JSON.stringify({ ...fields, seed: __VU * 1000000 + __ITER });
  const tags = { client: String(__VU) };
  const response = http.post(url, body, { headers: { 'Content-Type': 'application/json' }, tags, timeout: '600s' });
  const found = imagesIn(response);
  images.add(found, tags);
  failed.add(found === 0, tags);
}

// How many images a reply holds: none unless each entry of its data is one.
function imagesIn(response) {
  if (response.status !== 200) return 0;
  try {
    const found = JSON.parse(response.body).data.map((image) => image.b64_json);
    return found.every((base64) => typeof base64 === 'string' && base64 !== '') ? found.length : 0;
  } catch (garbage) {
    return 0;
  }
}

export function teardown() {
  complete.add(1);
}

export function handleSummary(data) {
  return { [__ENV.SUMMARY || 'k6-summary.json']: JSON.stringify(data) };
}
