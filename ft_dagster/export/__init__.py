"""Makes what is served: an adapter or a merged model, its card, and the proof that it is what was judged."""
