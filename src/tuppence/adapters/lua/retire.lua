-- Take a slice out for good. Returns whether Redis has remembered all its calls, and the calls of
-- its scope set as pairs.
-- KEYS: the slices of a scope set, the calls in flight on them. ARGV: the slice.
redis.call('HDEL', KEYS[1], ARGV[1])
return { redis.call('HEXISTS', KEYS[2], 'slice ' .. ARGV[1]), redis.call('HGETALL', KEYS[2]) }
