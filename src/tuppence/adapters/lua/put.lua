-- Put in a slice that was drawn, with the calls that have their money from it already.
-- KEYS: the slices of a scope set, the calls in flight on them, when which slice is due.
-- ARGV: the slice, what is left of it, the scope set, when it is due, its life and how long calls
-- are remembered (all in milliseconds), then pairs of a call and what is kept of it.
if redis.call('HSETNX', KEYS[2], 'slice ' .. ARGV[1], ARGV[2]) == 0 then
  return 0
end
if tonumber(ARGV[2]) > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
end
for i = 7, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[1] .. ' ' .. ARGV[i + 1])
end
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1] .. ' ' .. ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
redis.call('PEXPIRE', KEYS[3], ARGV[6])
return 1
