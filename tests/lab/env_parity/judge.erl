%% What really becomes of an environment file: the judge of tests/lab/env_parity.rs. Runs inside a suite's tree, as the broker's
%% user, with the release's rabbit_common on the code path.
%%
%% For every N.conf in the folder (N.unit: the unit's environment, a NAME=value per line, if there is one):
%%   1. the file is put to /etc/rabbitmq/rabbitmq-env.conf, and the release's own start script is run; in the place of `erl` a
%%      program writes down its environment, and right before it the script's variables;
%%   2. the release's own rabbit_env reads the file again in that environment, and checks the values.
%% Prints per case what happened, and the environment in the end, base64 line by line.
-module(judge).
-export([main/1]).
-compile(nowarn_deprecated_catch).

-define(CONF, "/etc/rabbitmq/rabbitmq-env.conf").
-define(PATH, "/mnt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").

main([Folder]) ->
    catch logger:set_primary_config(level, none),
    {ok, Names} = file:list_dir(Folder),
    Own = os:getenv(),
    lists:foreach(fun(Case) -> judge(filename:join(Folder, Case), Case, Own) end,
                  lists:sort([filename:rootname(N) || N <- Names, filename:extension(N) =:= ".conf"])),
    halt(0).

judge(Path, Case, Own) ->
    put_file(Path),
    Outputs = ["/tmp/env", "/tmp/shell"],
    lists:foreach(fun file:delete/1, Outputs),
    Status = start(unit(Path ++ ".unit")),
    case [file:read_file(F) || F <- Outputs] of
        [{ok, Env}, {ok, Shell}] ->
            restore(variables(Env)),
            State = reread(),
            io:format("case ~s ~s~n", [Case, State]),
            lists:foreach(fun(V) -> line("env", to_bytes(V)) end, os:getenv()),
            lists:foreach(fun(V) -> line("shell", V) end, variables(Shell));
        _ ->
            io:format("case ~s died ~w~n", [Case, Status])
    end,
    restore([to_bytes(V) || V <- Own]).

line(Kind, Bytes) -> io:format("~s ~s~n", [Kind, base64:encode(Bytes)]).

to_bytes(Text) ->
    case unicode:characters_to_binary(Text) of B when is_binary(B) -> B; _ -> <<"?=?">> end.

put_file(Path) ->
    _ = file:delete(?CONF),
    {ok, _} = file:copy(Path ++ ".conf", ?CONF),
    case filelib:is_file(Path ++ ".unreadable") of
        true -> ok = file:change_mode(?CONF, 8#000);
        false -> ok
    end.

unit(File) ->
    case file:read_file(File) of
        {ok, Text} -> [list_to_tuple([unicode:characters_to_list(P) || P <- binary:split(L, <<"=">>)])
                       || L <- binary:split(Text, <<"\n">>, [global]), L =/= <<>>];
        _ -> []
    end.

%% As systemd starts it. Answers the exit status.
start(Unit) ->
    Base = [{"PATH", ?PATH}, {"HOME", "/var/lib/rabbitmq"}, {"LANG", "C.UTF-8"}, {"USER", "rabbitmq"}, {"LOGNAME", "rabbitmq"},
            {"SHELL", "/usr/sbin/nologin"}, {"NOTIFY_SOCKET", "/run/systemd/notify"}],
    Env = Base ++ Unit,
    %% Erlang takes a variable with an empty value out of a port's environment; env does not.
    Args = ["-i"] ++ [Name ++ "=" ++ Value || {Name, Value} <- Env] ++
           ["/bin/bash", "-c", "exec timeout -k1 5 /usr/lib/rabbitmq/bin/rabbitmq-server </dev/null"],
    Port = open_port({spawn_executable, "/usr/bin/env"}, [{args, Args}, {cd, "/tmp"}, exit_status, stderr_to_stdout, binary]),
    wait(Port).

wait(Port) ->
    receive
        {Port, {exit_status, Status}} -> Status;
        {Port, {data, _}} -> wait(Port)
    end.

variables(Bytes) -> [V || V <- binary:split(Bytes, <<0>>, [global]), V =/= <<>>].

restore(Variables) ->
    lists:foreach(fun(V) -> os:unsetenv(hd(string:split(V, "="))) end, os:getenv()),
    lists:foreach(fun(V) ->
        case binary:split(V, <<"=">>) of
            [Name, Value] -> catch os:putenv(unicode:characters_to_list(Name), unicode:characters_to_list(Value));
            _ -> ok
        end
    end, Variables).

%% The broker's own reading, and its checks of values.
reread() ->
    try rabbit_env:get_context_after_logging_init(rabbit_env:get_context_before_logging_init()) of
        Context ->
            try rabbit_env:get_context_after_reloading_env(Context) of
                _ -> "started"
            catch _:_ -> "refused"
            end
    catch _:_ -> "crashed"
    end.
