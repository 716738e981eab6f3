// A plain gateway in Go: the peer that the benchmark runs beside Tapedeck.
//
// It does what the original system did, step by step, for each request by itself:
//
//	-mode plain  GET the lookup (through twemproxy), SELECT the state from the day's table that it
//	             names (today's, where it names none), upsert it into today's table, SET the lookup
//	-mode table  one big table, no lookups: SELECT, upsert
//	-mode redis  Redis alone: GET the state, SET it
//
// Within this design it is meant to be as fast as a good engineer makes it: net/http, pooled
// connections, one round trip a statement (no prepare), the catalog in memory with its JSON ready, the
// same signed tokens and the same answers as Tapedeck's. It has no compare-and-set: of two changes of
// one state at the same time one is lost.
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	_ "github.com/go-sql-driver/mysql"
	"github.com/gomodule/redigo/redis"
)

const lookupSeconds = 32 * 86400

var label = []byte("tapedeck play token v1\x00")

type mix struct {
	ids    []int64
	order  map[int64]int
	tracks []json.RawMessage
}

type state struct {
	Played   []int64   `json:"played,omitempty"`
	AtEnd    bool      `json:"at_end,omitempty"`
	Skips    []float64 `json:"skips,omitempty"`
	Reported []int64   `json:"reported,omitempty"`
	Listened bool      `json:"listened,omitempty"`
}

type place struct {
	AtBeginning bool            `json:"at_beginning"`
	AtLastTrack bool            `json:"at_last_track"`
	AtEnd       bool            `json:"at_end"`
	SkipAllowed bool            `json:"skip_allowed"`
	Track       json.RawMessage `json:"track"`
}

type envelope struct {
	Status     string            `json:"status"`
	Errors     []string          `json:"errors"`
	Notices    []string          `json:"notices"`
	LoggedIn   bool              `json:"logged_in"`
	APIVersion int               `json:"api_version"`
	Set        *place            `json:"set,omitempty"`
	Tracks     []json.RawMessage `json:"tracks,omitempty"`
}

// store loads and saves one state; version 0 means that there is no state.
type store interface {
	load(user, playlist int64) (version int64, body []byte, err error)
	save(user, playlist, version int64, body []byte) error
}

// --- one table a day, and a lookup that says which

type dayStore struct {
	db   *sql.DB
	pool *redis.Pool
	past string // the database of the days before today, with a dot; empty: the same one
}

func today() string { return time.Now().UTC().Format("20060102") }

func lookupKey(user, playlist int64) string {
	return "uid:" + strconv.FormatInt(user, 10) + ":pid:" + strconv.FormatInt(playlist, 10)
}

func (s *dayStore) load(user, playlist int64) (int64, []byte, error) {
	connection := s.pool.Get()
	day, err := redis.String(connection.Do("GET", lookupKey(user, playlist)))
	connection.Close()
	if err == redis.ErrNil {
		day = today()
	} else if err != nil {
		return 0, nil, err
	}
	if len(day) != 8 || strings.Trim(day, "0123456789") != "" {
		return 0, nil, fmt.Errorf("a lookup says %q", day)
	}
	database := ""
	if day != today() {
		database = s.past
	}
	return selectState(s.db, database+"player_state_"+day, user, playlist)
}

func (s *dayStore) save(user, playlist, version int64, body []byte) error {
	day := today()
	if err := upsert(s.db, "player_state_"+day, "", user, playlist, version, body); err != nil {
		return err
	}
	connection := s.pool.Get()
	_, err := connection.Do("SET", lookupKey(user, playlist), day, "EX", lookupSeconds)
	connection.Close()
	return err
}

func selectState(db *sql.DB, table string, user, playlist int64) (int64, []byte, error) {
	var version int64
	var body []byte
	row := db.QueryRow(
		"SELECT version, state FROM "+table+" WHERE user_id=? AND playlist_id=?", user, playlist)
	if err := row.Scan(&version, &body); err != nil && err != sql.ErrNoRows {
		return 0, nil, err
	}
	return version, body, nil
}

func upsert(db *sql.DB, table, more string, user, playlist, version int64, body []byte) error {
	columns, values, sets := "", "", ""
	if more != "" {
		columns, values, sets = ","+more, ",UTC_DATE()", ","+more+"=VALUES("+more+")"
	}
	_, err := db.Exec(
		"INSERT INTO "+table+" (user_id,playlist_id,version,state"+columns+") VALUES (?,?,?,?"+values+")"+
			" ON DUPLICATE KEY UPDATE version=VALUES(version),state=VALUES(state)"+sets,
		user, playlist, version, body)
	return err
}

// --- one big table

type tableStore struct{ db *sql.DB }

func (s *tableStore) load(user, playlist int64) (int64, []byte, error) {
	return selectState(s.db, "player_state", user, playlist)
}

func (s *tableStore) save(user, playlist, version int64, body []byte) error {
	return upsert(s.db, "player_state", "written_on", user, playlist, version, body)
}

// --- Redis alone

type redisStore struct{ pool *redis.Pool }

func (s *redisStore) load(user, playlist int64) (int64, []byte, error) {
	connection := s.pool.Get()
	defer connection.Close()
	value, err := redis.Bytes(connection.Do("GET", lookupKey(user, playlist)))
	if err == redis.ErrNil {
		return 0, nil, nil
	}
	if err != nil || len(value) < 8 {
		return 0, nil, err
	}
	return int64(binary.BigEndian.Uint64(value)), value[8:], nil
}

func (s *redisStore) save(user, playlist, version int64, body []byte) error {
	value := make([]byte, 8, 8+len(body))
	binary.BigEndian.PutUint64(value, uint64(version))
	connection := s.pool.Get()
	defer connection.Close()
	_, err := connection.Do("SET", lookupKey(user, playlist), append(value, body...), "EX", lookupSeconds)
	return err
}

// --- the Player

type player struct {
	store   store
	key     []byte
	catalog map[int64]*mix
}

var errToken = errors.New("The play token was not issued by this service.")

func (p *player) verify(token string) (int64, error) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) != 33 {
		return 0, errToken
	}
	mac := hmac.New(sha256.New, p.key)
	mac.Write(label)
	mac.Write(raw[:17])
	if !hmac.Equal(mac.Sum(nil)[:16], raw[17:]) {
		return 0, errToken
	}
	expiry := int64(raw[12])<<32 | int64(binary.BigEndian.Uint32(raw[13:17]))
	if time.Now().Unix() >= expiry {
		return 0, errToken
	}
	return int64(binary.BigEndian.Uint64(raw[4:12])), nil
}

func (p *player) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/")
	if len(parts) != 4 || parts[1] != "sets" {
		answer(w, 404, &envelope{Status: "404 Not Found", Errors: []string{"There is no such path."}})
		return
	}
	user, err := p.verify(parts[2])
	if err != nil {
		answer(w, 401, &envelope{Status: "401 Unauthorized", Errors: []string{err.Error()}})
		return
	}
	query := r.URL.Query()
	playlist, _ := strconv.ParseInt(query.Get("mix_id"), 10, 64)
	track, _ := strconv.ParseInt(query.Get("track_id"), 10, 64)
	m := p.catalog[playlist]
	if m == nil {
		answer(w, 404, &envelope{Status: "404 Not Found", Errors: []string{"There is no such mix."}})
		return
	}
	reply := &envelope{Status: "200 OK", LoggedIn: user < 1<<62, APIVersion: 3}
	if err := p.act(parts[3], user, playlist, track, m, reply); err != nil {
		log.Print(err)
		answer(w, 500, &envelope{Status: "500 Internal Server Error", Errors: []string{"The request failed."}})
		return
	}
	answer(w, 200, reply)
}

func (p *player) act(action string, user, playlist, track int64, m *mix, reply *envelope) error {
	version, body, err := p.store.load(user, playlist)
	if err != nil {
		return err
	}
	var s state
	if version > 0 {
		if err := json.Unmarshal(body, &s); err != nil {
			return err
		}
	}
	switch action {
	case "tracks_played":
		for _, id := range s.Played {
			reply.Tracks = append(reply.Tracks, m.tracks[m.order[id]])
		}
		return nil
	case "play":
		if len(s.Played) == 0 || s.AtEnd {
			s.Played, s.AtEnd = []int64{m.ids[0]}, false
		}
		reply.Set = s.place(m)
	case "next", "skip":
		at := 0
		if len(s.Played) > 0 {
			at = m.order[s.Played[len(s.Played)-1]] + 1
		}
		if at < len(m.ids) {
			s.Played = append(s.Played, m.ids[at])
		} else {
			s.AtEnd = true
		}
		if action == "skip" {
			s.Skips = append(s.Skips, float64(time.Now().UnixNano())/1e9)
		}
		reply.Set = s.place(m)
	case "report":
		known := false
		for _, id := range s.Reported {
			known = known || id == track
		}
		if !known {
			s.Reported = append(s.Reported, track)
		}
		s.Listened = s.Listened || track == m.ids[len(m.ids)-1]
	default:
		return errors.New("no such action")
	}
	if body, err = json.Marshal(&s); err != nil {
		return err
	}
	return p.store.save(user, playlist, version+1, body)
}

func (s *state) place(m *mix) *place {
	if s.AtEnd {
		return &place{AtEnd: true, Track: json.RawMessage("{}")}
	}
	at := m.order[s.Played[len(s.Played)-1]]
	return &place{
		AtBeginning: at == 0, AtLastTrack: at == len(m.ids)-1,
		SkipAllowed: len(s.Skips) < 2, Track: m.tracks[at],
	}
}

func answer(w http.ResponseWriter, status int, reply *envelope) {
	body, err := json.Marshal(reply)
	if err != nil {
		log.Fatal(err)
	}
	header := w.Header()
	header["Content-Type"] = []string{"application/json; charset=utf-8"}
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	w.Write(body)
}

func readCatalog(path string) map[int64]*mix {
	data, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	var mixes map[int64][]json.RawMessage
	if err := json.Unmarshal(data, &mixes); err != nil {
		log.Fatal(err)
	}
	catalog := map[int64]*mix{}
	for id, tracks := range mixes {
		m := &mix{order: map[int64]int{}, tracks: tracks}
		for i, raw := range tracks {
			var t struct{ ID int64 }
			if err := json.Unmarshal(raw, &t); err != nil {
				log.Fatal(err)
			}
			m.ids = append(m.ids, t.ID)
			m.order[t.ID] = i
		}
		catalog[id] = m
	}
	return catalog
}

func main() {
	mode := flag.String("mode", "plain", "plain, table or redis")
	port := flag.Int("port", 0, "where to listen on 127.0.0.1")
	redisAt := flag.String("redis", "", "host:port of twemproxy, or of Redis")
	past := flag.String("past", "", "the database where the tables of the days before today are")
	dsn := flag.String("mysql", "", "in the driver's words, without the password (PLAIN_PASSWORD)")
	catalog := flag.String("catalog", "", "file of JSON: tracks by mix id")
	connections := flag.Int("connections", 64, "to MySQL and to Redis, at most")
	flag.Parse()

	var db *sql.DB
	if *dsn != "" {
		var err error
		if db, err = sql.Open("mysql", strings.Replace(*dsn, "PASSWORD", os.Getenv("PLAIN_PASSWORD"), 1)); err != nil {
			log.Fatal(err)
		}
		db.SetMaxOpenConns(*connections)
		db.SetMaxIdleConns(*connections)
	}
	pool := &redis.Pool{
		MaxIdle: *connections, MaxActive: *connections, Wait: true,
		Dial: func() (redis.Conn, error) { return redis.Dial("tcp", *redisAt) },
	}
	p := &player{key: []byte(os.Getenv("PLAIN_TOKEN_KEY")), catalog: readCatalog(*catalog)}
	switch *mode {
	case "plain":
		if *past != "" {
			*past += "."
		}
		p.store = &dayStore{db, pool, *past}
	case "table":
		p.store = &tableStore{db}
	case "redis":
		p.store = &redisStore{pool}
	default:
		log.Fatalf("no such mode: %s", *mode)
	}
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, p))
}
