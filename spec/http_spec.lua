local unsync = require("unsync")
local http = require("unsync.http")
local uv = require("luv")
local http_server = require("spec.support.http_server")
local require = require -- what is sent to workers must not use the globals of a spec

--- The error that awaiting `future` raises.
local function failure_of(future)
  local fine, problem = pcall(future.await, future)
  assert.is_false(fine)
  return problem
end

--- Runs a program to its end and returns what it wrote, and its exit code.
local function run(program, ...)
  local ends, output = assert(uv.pipe()), uv.new_pipe(false)
  local text, code, ended = {}, unsync.promise(), unsync.promise()
  local process
  process = assert(uv.spawn(program, {args = {...}, stdio = {nil, ends.write, ends.write}}, function(exit_code)
    process:close()
    code:resolve(exit_code)
  end))
  uv.fs_close(ends.write)
  output:open(ends.read)
  output:read_start(function(_, bytes)
    if bytes then
      text[#text + 1] = bytes
    else
      output:close()
      ended:resolve()
    end
  end)
  ended:await()
  return table.concat(text), code:await()
end

local function write_file(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

describe("unsync.http", function()
  local server

  setup(function() server = http_server.start() end)
  teardown(function() server.close() end)

  describe("an answer", function()
    it("has status, reason, headers, body and the URL that answered", function()
      local answer = http.get(server.url .. "/?size=5"):await()
      assert.equal(200, answer.status)
      assert.equal("OK", answer.reason)
      assert.equal("xxxxx", answer.body)
      assert.equal(server.url .. "/?size=5", answer.url)
      assert.equal("5", answer.headers["content-length"])
      assert.equal(0, answer.redirects)
      assert.is_true(answer.elapsed >= 0)
    end)

    it("is one whatever its status", function()
      local answer = http.get(server.url .. "/status/404"):await()
      assert.equal(404, answer.status)
      assert.equal("Not Found", answer.reason)
      assert.equal("status 404\n", answer.body)
      assert.equal("", http.get(server.url .. "/status/204"):await().body)
      assert.equal(500, http.get(server.url .. "/status/500"):await().status)
    end)

    it("has headers that are found in any spelling", function()
      local headers = http.get(server.url .. "/headers"):await().headers
      assert.equal("in between", headers["X-Padded"])
      assert.equal("in between", headers["x-pADDED"])
      assert.equal("", headers["x-blank"])
      assert.is_nil(headers["x-none"])
      assert.is_nil(headers[1])
    end)

    it("keeps a header that comes twice: joined by name, apart in the list", function()
      local answer = http.get(server.url .. "/headers"):await()
      assert.equal("a=1, b=2", answer.headers["Set-Cookie"])
      assert.same({"Set-Cookie", "a=1"}, answer.header_list[1])
      assert.same({"set-cookie", "b=2"}, answer.header_list[3])
    end)

    it("may repeat a header as often as it likes, and costs no more than it has bytes", function()
      local count = 10000
      local answer = http.get(server.url .. "/again?count=" .. count):await()
      local values = {}
      for i = 1, count do values[i] = i end
      assert.equal(table.concat(values, ", "), answer.headers.a)
      assert.same({"A", tostring(count)}, answer.header_list[count])
    end)

    it("has the whole body, whatever way it came", function()
      assert.equal("chunk 1\nchunk 2\nchunk 3\n", http.get(server.url .. "/chunked?delay=0.001"):await().body)
      assert.equal(("x"):rep(3000000), http.get(server.url .. "/?size=3000000"):await().body)
    end)

    it("is unpacked where it came compressed", function()
      assert.equal("compressed hello\n", http.get(server.url .. "/gzip"):await().body)
      local echo = http.get(server.url .. "/echo", {compressed = false}):await().body
      assert.is_nil(echo:find("Accept%-Encoding"))
    end)

    it("has no body to HEAD, but its headers", function()
      local answer = http.head(server.url .. "/?size=5"):await()
      assert.equal("", answer.body)
      assert.equal("5", answer.headers["content-length"])
    end)
  end)

  describe("a request", function()
    local function echo(request)
      request.url = server.url .. "/echo"
      return http.request(request):await().body
    end

    it("is a GET, or a POST where there is a body", function()
      assert.matches("^GET /echo\n", echo({}))
      assert.matches("^POST /echo\n.*\n\nhello$", echo({body = "hello"}))
    end)

    it("has the method it was given, with a body or without", function()
      assert.matches("^DELETE /echo\n", http.delete(server.url .. "/echo"):await().body)
      assert.matches("^PUT /echo\n.*\n\nhello$", http.put(server.url .. "/echo", "hello"):await().body)
      assert.matches("^PATCH /echo\n.*\n\nhello$", http.patch(server.url .. "/echo", "hello"):await().body)
      assert.matches("^POST /echo\n.*Content%-Length: 0\n", http.post(server.url .. "/echo"):await().body)
      assert.matches("^PURGE /echo\n", echo({method = "PURGE"}))
    end)

    it("carries any bytes, and says nothing of their kind", function()
      local bytes = "\0\1\r\n\255" .. ("\0"):rep(2000000)
      local body = echo({method = "PUT", body = bytes})
      assert.equal(bytes, body:match("\n\n(.*)$"))
      assert.is_nil(body:lower():find("content%-type"))
      assert.is_nil(body:lower():find("expect"))
    end)

    it("carries the headers it was given, several of one name too", function()
      local body = echo({headers = {["X-One"] = 1, ["X-Two"] = {"a", "b"}, ["X-Empty"] = "", ["user-agent"] = "me"}})
      assert.matches("\nX%-One: 1\n", body)
      assert.matches("\nX%-Two: a\nX%-Two: b\n", body)
      assert.matches("\nX%-Empty: ?\n", body)
      assert.matches("\nuser%-agent: me\n", body)
      assert.is_nil(body:find("User%-Agent"))
    end)

    it("encodes query and form", function()
      local options = {form = {a = "b c", d = {1, true}}, query = {x = "ü&"}}
      local body = http.post(server.url .. "/echo?z=0#part", nil, options):await().body
      assert.matches("^POST /echo%?z=0&x=%%C3%%BC%%26\n", body)
      assert.matches("\nContent%-Type: application/x%-www%-form%-urlencoded\n", body)
      assert.matches("\n\na=b%%20c&d=1&d=true$", body)
    end)

    it("starts at once and never suspends its caller", function()
      local future = http.get(server.url .. "/?delay=0.01")
      assert.is_true(unsync.is_future(future))
      assert.is_false(future:done())
      future:await()
    end)
  end)

  describe("a redirect", function()
    it("is followed", function()
      local answer = http.get(server.url .. "/redirect?count=3"):await()
      assert.equal(200, answer.status)
      assert.equal(3, answer.redirects)
      assert.equal(server.url .. "/echo", answer.url)
      assert.is_nil(answer.headers.location)
    end)

    it("is an answer where it is not to be followed", function()
      for _, redirects in ipairs({0, false}) do
        local answer = http.get(server.url .. "/redirect", {redirects = redirects}):await()
        assert.equal(302, answer.status)
        assert.equal("/echo", answer.headers.location)
      end
    end)

    it("is followed ten times, or as often as was said", function()
      assert.equal(10, http.get(server.url .. "/redirect?count=10"):await().redirects)
      assert.equal("redirects", failure_of(http.get(server.url .. "/redirect?count=11")).code)
      assert.equal("redirects", failure_of(http.get(server.url .. "/redirect?count=2", {redirects = 1})).code)
    end)

    it("is followed as often as it may be, whatever that number is", function()
      for _, most in ipairs({1 << 31, math.maxinteger}) do
        assert.equal(200, http.get(server.url .. "/redirect", {redirects = most}):await().status)
      end
    end)

    it("takes credentials to nobody but the one they are for", function()
      local other = http_server.start()
      local headers = {Authorization = "Bearer secret", Cookie = "secret=1", ["X-Own"] = "goes along"}
      local function told(from, to)
        return http.get(from .. "/redirect?to=" .. to .. "/echo", {headers = headers}):await().body
      end
      local body = told(server.url, server.url)
      assert.matches("Bearer secret", body)
      assert.matches("secret=1", body)
      body = told(server.url, other.url)
      assert.is_nil(body:find("secret"))
      assert.matches("goes along", body)
      assert.is_nil(told(server.url:gsub("//", "//user:secret@"), other.url):find("Basic"))
      other.close()
    end)

    it("turns a POST into a GET at 302, any method at 303, none at 307", function()
      local function after(status, method)
        local to = server.url .. "/redirect?to=/echo&status=" .. status
        return http.request({url = to, method = method, body = "hello"}):await().body
      end
      assert.matches("^GET ", after(302, "POST"))
      assert.matches("^GET ", after(303, "POST"))
      assert.matches("^GET ", after(303, "PUT"))
      assert.matches("^POST .*\n\nhello$", after(307, "POST"))
      assert.matches("^PUT .*\n\nhello$", after(302, "PUT"))
      assert.matches("^PUT .*\n\nhello$", after(307, "PUT"))
    end)

    it("leads to no other protocol", function()
      assert.equal("EPROTONOSUPPORT", failure_of(http.get(server.url .. "/redirect?to=file:///etc/passwd")).code)
    end)
  end)

  describe("a failure", function()
    it("names the system's reason, the method, the URL and the address", function()
      local problem = failure_of(http.get("http://127.0.0.1:1/page"))
      assert.equal("ECONNREFUSED", problem.code)
      assert.equal("GET", problem.method)
      assert.equal("http://127.0.0.1:1/page", problem.url)
      assert.equal("127.0.0.1:1", problem.address)
      assert.matches("^GET http://127.0.0.1:1/page: ECONNREFUSED: ", tostring(problem))
    end)

    it("says when the answer broke off, was none, or was not HTTP", function()
      assert.equal("EOF", failure_of(http.get(server.url .. "/short")).code)
      assert.equal("EOF", failure_of(http.get(server.url .. "/empty")).code)
      assert.equal("ECONNRESET", failure_of(http.get(server.url .. "/reset")).code)
      assert.equal("EPROTO", failure_of(http.get(server.url .. "/garbage")).code)
    end)

    it("says when there is no such host", function()
      local problem = failure_of(http.get("http://no-such-host.invalid/"))
      assert.equal("ENOTFOUND", problem.code)
      assert.matches("no%-such%-host.invalid", problem.message)
      assert.equal("no-such-host.invalid:80", problem.address)
      local moved = failure_of(http.get(server.url .. "/redirect?to=http://no-such-host.invalid:81/"))
      assert.same({"ENOTFOUND", "no-such-host.invalid:81"}, {moved.code, moved.address})
    end)

    it("tells no user and no password", function()
      local problem = failure_of(http.get("http://user:secret@127.0.0.1:1/"))
      assert.equal("http://127.0.0.1:1/", problem.url)
      assert.is_nil(tostring(problem):find("secret"))
      local there = server.url:gsub("//", "//user:secret@")
      assert.is_nil(http.get(there .. "/redirect"):await().url:find("secret"))
      assert.matches("\nAuthorization: Basic ", http.get(there .. "/echo"):await().body)
    end)

    it("comes at the timeout, which counts from the call, and not earlier", function()
      local start = unsync.now()
      local problem = failure_of(http.get(server.url .. "/never", {timeout = 0.05}))
      assert.equal("timeout", problem.code)
      assert.matches("within 0.05 s", problem.message)
      assert.is_true(unsync.now() - start >= 0.05)
      local slow = http.get(server.url .. "/chunked?count=100&delay=0.01", {timeout = 0.05})
      assert.equal("timeout", failure_of(slow).code)
    end)

    it("comes where a body grows too long", function()
      local problem = failure_of(http.get(server.url .. "/?size=101", {max_body = 100}))
      assert.equal("limit", problem.code)
      assert.matches("max_body", problem.message)
      assert.equal(100, #http.get(server.url .. "/?size=100", {max_body = 100}):await().body)
    end)

    it("comes where the head never comes to an end", function()
      assert.equal(200, http.get(server.url .. "/flood?size=200000"):await().status)
      local problem = failure_of(http.get(server.url .. "/flood?size=4000000"))
      assert.equal("limit", problem.code)
      assert.matches("limit: the head of the answer", problem.message)
    end)

    it("of one request is none of another", function()
      local good, bad = http.get(server.url .. "/?delay=0.02"), http.get(server.url .. "/short")
      assert.equal("EOF", failure_of(bad).code)
      assert.equal(200, good:await().status)
    end)
  end)

  describe("misuse", function()
    local function complaint(...)
      local fine, problem = pcall(...)
      assert.is_false(fine)
      return problem
    end

    it("raises at the call and names the argument", function()
      local url = "http://host/"
      assert.matches("'url' to 'http.get' %(string expected, got nil%)", complaint(http.get))
      assert.matches("'url' to 'http.get' %(http or https expected%)", complaint(http.get, "ftp://host/"))
      assert.matches("'url' to 'http.get' %(an absolute URL", complaint(http.get, "host/path"))
      assert.matches("'url' to 'http.get'", complaint(http.get, "http://a b/"))
      assert.matches("'url' to 'http.get'", complaint(http.get, "http://a/\0"))
      assert.matches("'url' to 'http.get'", complaint(http.get, "http://a/\r\nB: c"))
      assert.matches("'url' to 'http.request'", complaint(http.request, {url = "http://a/\0"}))
      assert.matches("'ca_file' to 'http.get'", complaint(http.get, url, {ca_file = "a\0b"}))
      assert.matches("'proxy' to 'http.get'", complaint(http.get, url, {proxy = "http://a\0b"}))
      assert.matches("'url' to 'http.request'", complaint(http.request, {}))
      assert.matches("'request' to 'http.request'", complaint(http.request, url))
      assert.matches("'timeout' to 'http.get'", complaint(http.get, url, {timeout = 0}))
      assert.matches("'timeout' to 'http.get'", complaint(http.get, url, {timeout = "1"}))
      assert.matches("'max_body' to 'http.get'", complaint(http.get, url, {max_body = 1.5}))
      assert.matches("'colour' to 'http.get' %(no such option", complaint(http.get, url, {colour = 1}))
      assert.matches("'body' to 'http.post'", complaint(http.post, url, {}))
      assert.matches("'form' to 'http.request'", complaint(http.request, {url = url, body = "", form = {}}))
      assert.matches("'method' to 'http.request'", complaint(http.request, {url = url, method = "A B"}))
    end)

    it("smuggles no header", function()
      for _, headers in ipairs({{A = "b\r\nC: d"}, {["A: b\r\nC"] = "d"}, {"A: b"}, {A = {}, B = print}}) do
        assert.matches("bad argument 'headers", complaint(http.get, "http://host/", {headers = headers}))
      end
    end)

    it("is blamed on the line of the call", function()
      local line = debug.getinfo(1, "l").currentline + 1
      local problem = complaint(function() http.get(server.url, {headers = 1}) end)
      assert.matches("http_spec.lua:" .. line .. ":", problem)
      problem = complaint(function() http.post(server.url, 1) end)
      assert.matches("http_spec.lua:" .. line + 2 .. ":", problem)
    end)
  end)

  it("runs requests at the same time", function()
    local start, futures = unsync.now(), {}
    for i = 1, 20 do futures[i] = http.get(server.url .. "/?delay=0.1") end
    unsync.all(futures):await()
    assert.is_true(unsync.now() - start < 1)
  end)

  it("uses a connection again", function()
    local own = http_server.start()
    for _ = 1, 5 do http.get(own.url):await() end
    assert.equal(1, own.connections)
    own.close()
    assert.equal("ECONNREFUSED", failure_of(http.get(own.url)).code)
  end)

  it("closes connections that are not used for a while, and makes new ones", function()
    local own = http_server.start()
    unsync.all({http.get(own.url), http.get(own.url)}):await()
    while own.open > 0 do unsync.sleep(0.05) end
    local before = own.connections
    assert.equal(200, http.get(own.url):await().status)
    assert.equal(before + 1, own.connections)
    own.close()
  end)

  describe("cancelled", function()
    --- Waits until `own` has so many connections open.
    local function await_open(own, count)
      while own.open ~= count do unsync.sleep(0.001) end
    end

    it("gives its connection up, and is `cancelled`", function()
      local own = http_server.start()
      local future = http.get(own.url .. "/never")
      await_open(own, 1)
      assert.is_true(future:cancel("no more"))
      assert.equal("cancelled", future:status())
      local problem = failure_of(future)
      assert.equal("cancelled", problem.code)
      assert.equal("no more", problem.reason)
      await_open(own, 0)
      assert.is_false(future:cancel())
      own.close()
    end)

    it("is what a cancelled task waits for, if nobody else does", function()
      local own = http_server.start()
      local futures = {http.get(own.url .. "/never"), http.get(own.url .. "/?delay=0.3")}
      local tasks = {}
      for i, future in ipairs(futures) do
        tasks[i] = unsync.spawn(function() return future:await() end)
      end
      local other = unsync.spawn(function() return futures[2]:await().status end)
      await_open(own, 2)
      for i = 1, 2 do
        tasks[i]:cancel()
        assert.equal("cancelled", failure_of(tasks[i]).code)
      end
      assert.equal("cancelled", futures[1]:status())
      assert.equal(200, other:await())
      await_open(own, 1) -- kept for the next request
      own.close()
    end)

    it("lets those that wait in line go on", function()
      local futures = {}
      for i = 1, 1500 do futures[i] = http.get(server.url .. "/never") end
      for _, future in ipairs(futures) do future:cancel() end
      assert.equal(200, http.get(server.url):await().status)
    end)
  end)

  it("works in a thread, with answers and errors coming home", function()
    local size_of = unsync.thread(function(url)
      local answer = require("unsync.http").get(url):await()
      return answer, #answer.body
    end)
    local answer, size = size_of(server.url .. "/?size=7"):await()
    assert.equal(7, size)
    assert.equal("7", answer.headers["Content-Length"])
    local problem = failure_of(size_of("http://127.0.0.1:1/"))
    assert.equal("ECONNREFUSED", problem.code)
  end)

  it("works in a process", function()
    local size_of = unsync.cpu(function(url) return #require("unsync.http").get(url):await().body end)
    assert.equal(7, size_of(server.url .. "/?size=7"):await())
  end)

  it("keeps the program going for an answer that only a listener waits for", function()
    local text, code = run(uv.exepath(), "-e", ([[
      local http = require("unsync.http")
      http.get(%q):and_then(function(answer) print(answer.body) end)
    ]]):format(server.url .. "/?delay=0.02&size=4"))
    assert.equal("xxxx\n", text)
    assert.equal(0, code)
  end)

  it("ends with requests under way", function()
    local text, code = run(uv.exepath(), "-e", ([[
      local http = require("unsync.http")
      for _ = 1, 5 do
        http.get(%q)
        http.get(%q)
        http.get("http://no-such-host.invalid/")
      end
      require("unsync").sleep(0.01)
      error("the end")
    ]]):format(server.url .. "/never", server.url .. "/?size=100000"))
    assert.matches("the end", text)
    assert.equal(1, code)
  end)

  it("runs a thousand requests within the limit of descriptors", function()
    local other = http_server.spawn()
    local text, code = run("/bin/sh", "-c", ('ulimit -n 128; exec %q -e "$0"'):format(uv.exepath()), ([[
      local unsync, http = require("unsync"), require("unsync.http")
      local futures = {}
      for i = 1, 1000 do futures[i] = http.get(%q) end
      local fine = 0
      for _, answer in ipairs(unsync.all(futures):await()) do
        if answer.status == 200 and #answer.body == 100 then fine = fine + 1 end
      end
      print(fine)
    ]]):format(other.url .. "/?delay=0.01&size=100"))
    other.close()
    assert.equal("1000\n", text)
    assert.equal(0, code)
  end)

  it("makes do with the few descriptors that a script has left", function()
    local other = http_server.spawn()
    local text, code = run("/bin/sh", "-c", ('ulimit -n 128; exec %q -e "$0"'):format(uv.exepath()), ([[
      local unsync, http = require("unsync"), require("unsync.http")
      http.get(%q):await()
      local files = {}
      repeat
        local file = io.open("/dev/null")
        files[#files + 1] = file
      until not file
      for _ = 1, 5 do table.remove(files):close() end
      local futures = {}
      for i = 1, 100 do futures[i] = http.get(%q) end
      print(#unsync.all(futures):await())
      while #files > 0 do table.remove(files):close() end
    ]]):format(other.url, other.url .. "/?delay=0.001"))
    other.close()
    assert.equal("100\n", text)
    assert.equal(0, code)
  end)

  describe("https", function()
    local directory, port, process

    setup(function()
      directory = assert(uv.fs_mkdtemp("/tmp/unsync-http-XXXXXX"))
      local made = os.execute(("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext %q "
        .. "-keyout %s/key.pem -out %s/cert.pem >/dev/null 2>&1"):format("subjectAltName=DNS:localhost", directory,
        directory))
      if not made then return end
      local output = uv.new_pipe(false)
      local text, ready = "", unsync.promise()
      process = assert(uv.spawn("openssl", {
        args = {"s_server", "-accept", "127.0.0.1:0", "-www", "-key", directory .. "/key.pem",
                "-cert", directory .. "/cert.pem"},
        stdio = {nil, output, nil},
      }, function()
        process:close()
        output:close()
      end))
      output:read_start(function(_, bytes)
        text = text .. (bytes or "")
        if not bytes or text:find("ACCEPT [^\n]+\n") then ready:resolve() end
      end)
      ready:await()
      port = text:match("ACCEPT [^\n]*:(%d+)\n")
    end)

    teardown(function()
      if process and not process:is_closing() then process:kill("sigkill") end
      for _, name in ipairs({"key.pem", "cert.pem"}) do os.remove(directory .. "/" .. name) end
      uv.fs_rmdir(directory)
    end)

    it("wants to know who answers", function()
      if not port then return pending("no openssl") end
      local problem = failure_of(http.get(("https://localhost:%s/"):format(port)))
      assert.equal("tls", problem.code)
      assert.matches("certificate", problem.message)
      local wrong_name = http.get(("https://127.0.0.1:%s/"):format(port), {ca_file = directory .. "/cert.pem"})
      assert.equal("tls", failure_of(wrong_name).code)
    end)

    it("trusts the authority that it is told to, or anybody", function()
      if not port then return pending("no openssl") end
      local url = ("https://localhost:%s/"):format(port)
      assert.equal(200, http.get(url, {ca_file = directory .. "/cert.pem"}):await().status)
      assert.equal(200, http.get(url, {verify = false}):await().status)
      assert.equal("tls", failure_of(http.get(url)).code) -- which says nothing to others of a connection that is kept
    end)

    it("says when the authority's file is none", function()
      if not port then return pending("no openssl") end
      local url = ("https://localhost:%s/"):format(port)
      write_file(directory .. "/key.pem", "nonsense")
      assert.equal("tls", failure_of(http.get(url, {ca_file = directory .. "/key.pem"})).code)
      assert.equal("tls", failure_of(http.get(url, {ca_file = directory .. "/none.pem"})).code)
    end)

    it("fails where no TLS is spoken", function()
      assert.equal("tls", failure_of(http.get((server.url:gsub("^http", "https")))).code)
    end)
  end)
end)
