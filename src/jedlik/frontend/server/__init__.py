"""HTTP/1 on sockets: what stands between the network and the ASGI application, on top of uvicorn and httptools."""
