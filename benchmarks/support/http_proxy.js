// http-proxy as its documentation sets it up, with keep-alive to the upstream. Arguments: port, upstream port, workers.
const cluster = require('cluster');
const http = require('http');
const httpProxy = require('http-proxy');

const [port, upstreamPort, workers] = process.argv.slice(2).map(Number);

function serve() {
  const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity, maxFreeSockets: 2000 });
  const target = `http://127.0.0.1:${upstreamPort}`;
  const proxy = httpProxy.createProxyServer({ target, agent, xfwd: true });
  proxy.on('error', (error, request, response) => {
    if (response.writeHead && !response.headersSent) response.writeHead(502);
    response.end();
  });
  http.createServer((request, response) => proxy.web(request, response)).listen(port, '127.0.0.1', 4096);
}

if (workers === 1) {
  serve();
} else if (cluster.isPrimary) {
  cluster.schedulingPolicy = cluster.SCHED_NONE; // each worker accepts for itself: no process in between
  for (let i = 0; i < workers; i++) cluster.fork();
} else {
  serve();
}
